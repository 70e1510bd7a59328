"""Measure the recalls of a model.

python eval.py --resume model.pth --dataset sf_xl_test_v1
python eval.py --resume model.pth --test_set_folder FOLDER --queries_folder queries
"""

import logging
from collections.abc import Sequence

import commons
from datasets.catalog import load_test_set
from evaluation import Protocol, evaluate
from evaluation.descriptors import Inference
from evaluation.protocol import format_result
from evaluation.results import write_results
from model import build_network
from model.checkpoints import load_network
from parser import parse_arguments
from reports.pictures import save_pictures


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate one model on one test set and write the folder of the run."""
    args = parse_arguments(argv, is_training=False)
    software = commons.describe_software()
    commons.seed_everything(args.seed)
    with commons.usage_errors():
        resize = args.resize_test_imgs or str(args.image_size)
        protocol = Protocol(args.positive_dist_threshold, tuple(args.recall_values), resize)
        device = commons.choose_device(args.device)
    eval_set = load_test_set(
        args.dataset, args.datasets_folder, args.test_set_folder, args.queries_folder
    )
    if args.resume_model:
        network = load_network(args.resume_model)
    else:
        network = build_network(
            args.backbone, args.fc_output_dim, args.pooling, args.backbone_weights
        )

    flags = vars(args) | network.architecture
    run_folder = commons.make_run_folder(args.save_dir, "eval", flags)
    commons.setup_logging(run_folder)
    architecture = ", ".join(f"{name} {value}" for name, value in network.architecture.items())
    model = args.resume_model or "the untrained network"
    logging.info(f"Evaluating {model} ({architecture}) on {eval_set}")
    evaluation = evaluate(
        network.eval().to(device),
        eval_set,
        protocol,
        Inference(device, args.infer_batch_size, args.num_workers),
        min_predictions=args.num_preds_to_save,
    )
    provenance = commons.describe_model(args.resume_model) | network.architecture
    provenance |= {"seed": args.seed} | software
    logging.info(format_result(write_results(evaluation, provenance, run_folder)))
    if args.num_preds_to_save:
        save_pictures(run_folder, args.num_preds_to_save, args.save_only_wrong_preds)
    logging.info(f"Results are in {run_folder}")


if __name__ == "__main__":
    commons.run_command(main)
