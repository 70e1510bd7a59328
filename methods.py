"""Every method by name: the defaults that `train.py --method NAME` gives to its flags.

A method is a row of the paper's tables: what it trains on and minimises (`objective`, a key of
`training.setup.OBJECTIVES`), and those flags whose defaults are not the same for all methods. Flags
on the command line override them. All other defaults are in `parser`.
"""

DEFAULT_METHOD = "cosplace"

_VGB = {  # the deep visual geo-localization benchmark's training, of Tables 2 and 3
    "objective": "tuples",
    "dataset": "pitts30k",
    "backbone": "VGG16",
    "fc_output_dim": 0,
    "image_size": "480x640",
    "resize_test_imgs": "480x640",
    "loss": "triplet",
    "margin": 0.1,
    "batch_size": 4,
    "lr": 1e-5,
    "epochs_num": 1000,
    "patience": 3,
    "best_by": 5,
}
_OPENIBL = {  # OpenIBL's training: SARE and SFRS
    "objective": "tuples",
    "dataset": "pitts30k",
    "backbone": "VGG16",
    "fc_output_dim": 0,
    "image_size": "480x640",
    "resize_test_imgs": "480x640",
    "mining": "openibl",
    "queries_per_epoch": 0,
    "reduction": "mean",
    "augment": "all",
    "batch_size": 4,
    "optimizer": "sgd",
    "lr": 1e-3,
    "weight_decay": 1e-3,
    "lr_step": 5,
    "lr_gamma": 0.5,
    "epochs_num": 5,
    "best_by": 5,
    "whitening": "pca_whiten",
    "whiten_dim": 4096,
    "kept_dims": 512,
}
_GSV = {  # training on places, as the code of GSV-Cities has it and those after it
    "objective": "places",
    "dataset": "gsv_cities",
    "fc_output_dim": 0,
    "optimizer": "adamw",
    "use_amp16": True,
}

METHODS = {
    "cosplace": {  # section 3 of the paper; its Table 2 has ResNet-18 and VGG-16 with 512-D
        "objective": "classification",
        "backbone": "ResNet18",
        "lr": 1e-5,
        "batch_size": 32,
        "epochs_num": 50,
        "iterations_per_epoch": 10_000,
    },
    "eigenplaces": {  # its authors' training, which started from CosPlace's weights
        "objective": "eigenplaces",
        "dataset": "sf_xl_panoramas",
        "backbone": "ResNet18",
        "M": 15,
        "N": 3,
        "min_images_per_class": 5,
        "groups_num": 9,
        "s": 100.0,
        "lr": 1e-5,
        "batch_size": 32,  # of each view
        "epochs_num": 40,
        "iterations_per_epoch": 5000,
        "use_amp16": True,
    },
    "cosplace_dinov2": {  # CosPlace's training of a foundation model; learning rate ours
        "objective": "classification",
        "backbone": "DINOv2_B",
        "aggregation": "cls",
        "train_last_blocks": 5,
        "image_size": 224,
        "optimizer": "adamw",
        "lr": 1e-5,
        "batch_size": 32,
        "epochs_num": 50,
        "iterations_per_epoch": 10_000,
    },
    "gem": _VGB | {"aggregation": "gem", "aggregation_args": {"l2": "before_pool"}},
    "netvlad": _VGB
    | {
        "aggregation": "netvlad",
        "aggregation_args": {"clusters": 64},
        "whitening": "pca",
        "whiten_dim": 512,
    },
    "crn": _VGB  # starts from a trained netvlad, --resume_model, with its number of clusters
    | {
        "aggregation": "crn",
        "optimizer": "sgd",
        "lr": 5e-4,
        "weight_decay": 1e-3,
        "lr_factors": {"aggregation.crn.*": 10.0},
        "whitening": "pca",
        "whiten_dim": 512,
    },
    "sare": _OPENIBL
    | {"aggregation": "netvlad", "aggregation_args": {"clusters": 64}, "loss": "sare_ind"},
    "sfrs": _OPENIBL  # learning rates start anew with each generation: none gets to a step
    | {
        "objective": "sfrs",
        "aggregation": "netvlad",
        "aggregation_args": {"clusters": 64},
        "loss": "sare_ind",
        "similarity": "dot",
        "lr_gamma": 1.0,
        "epochs_num": 16,
    },
    "apanet": {  # its authors' training: as NetVLAD's, whose learning rates fall each epoch
        "objective": "tuples",
        "dataset": "pitts30k",
        "backbone": "VGG16",
        "aggregation": "apanet",
        "fc_output_dim": 0,
        "image_size": "480x640",
        "resize_test_imgs": "480x640",
        "loss": "triplet",
        "power": 2,
        "margin": 0.1,
        "batch_size": 4,
        "optimizer": "sgd",
        "lr": 1e-3,
        "weight_decay": 1e-3,
        "lr_gamma": 0.904837,  # e^-0.1
        "lr_factors": {"aggregation.score.*": 10.0, "aggregation.context.*": 10.0},
        "epochs_num": 30,
        "patience": 5,
        "best_by": 5,
        "whitening": "pca_power",
        "whiten_dim": 512,
    },
    "sralnet": _OPENIBL  # reconstructed: its authors published no code
    | {"aggregation": "sralnet", "aggregation_args": {"clusters": 64}, "loss": "sare_ind"},
    "appsvr": _OPENIBL  # reconstructed, from a later module of its authors' group
    | {
        "aggregation": "appsvr",
        "aggregation_args": {"clusters": 64},
        "loss": "sare_ind",
        "best_by": 1,
        "lr_factors": {"aggregation.cluster_weights": 10.0, "aggregation.conv_app.*": 10.0},
        "no_weight_decay": [
            *("*.bias", "aggregation.centroids", "aggregation.cluster_weights"),
            "aggregation.conv_app.*",
        ],
    },
    "gsv_cities": _GSV  # with Conv-AP
    | {
        "backbone": "ResNet50",
        "aggregation": "convap",
        "image_size": 320,
        "resize_test_imgs": "320x320",
        "batch_size": 100,
        "lr": 2e-4,
        "lr_warmup": 600,
        "lr_milestones": [5, 10, 15, 25],
        "lr_gamma": 0.3,
        "epochs_num": 30,
    },
    "mixvpr": _GSV
    | {
        "backbone": "ResNet50_conv4",
        "aggregation": "mixvpr",
        "image_size": 320,
        "resize_test_imgs": "320x320",
        "batch_size": 120,
        "optimizer": "sgd",
        "lr": 0.05,
        "weight_decay": 1e-3,
        "lr_warmup": 650,
        "lr_milestones": [5, 10, 15, 25, 45],
        "lr_gamma": 0.3,
        "epochs_num": 80,
    },
    "salad": _GSV
    | {
        "backbone": "DINOv2_B",
        "aggregation": "salad",
        "train_last_blocks": 4,
        "image_size": 224,
        "resize_test_imgs": "322x322",
        "batch_size": 60,
        "lr": 6e-5,
        "weight_decay": 9.5e-9,
        "lr_linear": 4000,
        "lr_end": 0.2,
        "epochs_num": 4,
    },
    "boq": _GSV  # the released network, by the recipe of the public training script
    | {
        "backbone": "DINOv2_B",
        "aggregation": "boq",
        "aggregation_args": {"proj_channels": 384},
        "train_last_blocks": 2,
        "image_size": 280,
        "resize_test_imgs": "322x322-bicubic",
        "rand_augment_magnitude": 15,
        "train_interpolation": "bicubic",
        "batch_size": 128,
        "lr": 1e-4,
        "weight_decay": 1e-4,
        "lr_warmup_epochs": 10,
        "lr_milestones": [10, 20],
        "lr_gamma": 0.1,
        "epochs_num": 40,
    },
}
