"""Every method by name: the defaults that `train.py --method NAME` gives to its flags.

A method is a row of the paper's tables: what it trains on and minimises (`objective`, a key of
`training.setup.OBJECTIVES`), and those flags whose defaults are not the same for all methods. Flags
on the command line override them. All other defaults are in `parser`.
"""

DEFAULT_METHOD = "cosplace"

METHODS = {
    "cosplace": {  # section 3 of the paper; its Table 2 has ResNet-18 and VGG-16 with 512-D
        "objective": "classification",
        "backbone": "ResNet18",
        "lr": 1e-5,
        "batch_size": 32,
        "epochs_num": 50,
        "iterations_per_epoch": 10_000,
    },
}
