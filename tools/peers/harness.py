"""lm-evaluation-harness on local files: what it answers to every item of HellaSwag and MMLU, and how long it takes.

The harness's own task definitions are used; only the place of the data is replaced, so that nothing is fetched. One line of
the result is one item: the log-likelihoods of its choices, the harness's accuracies for it. The tests of the evaluator
compare with these files.

    python harness.py hellaswag --model MODEL --data val_500.jsonl --out hellaswag.json [--limit 100]
    python harness.py mmlu --model MODEL --data mmlu --shots 5 --limit 10 --out mmlu.json

`mmlu` is a folder with dev/ and test/ in the original layout (CSV without header). `--limit` counts items of each subject.
"""

import argparse
import csv
import json
import os
import tempfile
import time
from pathlib import Path

os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import lm_eval
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

TASKS = Path(lm_eval.__file__).parent / "tasks"


def hellaswag(data, folder):
    definition = {
        "include": str(TASKS / "hellaswag/hellaswag.yaml"),
        "task": "local_hellaswag",
        "tag": None,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(data)}},
        "training_split": None,
    }
    return write(folder, [definition])


def mmlu(data, folder):
    definitions = []
    for file in sorted((data / "test").glob("*_test.csv")):
        subject = file.stem.removesuffix("_test")
        files = {}
        for split in ["dev", "test"]:
            files[split] = str(folder / f"{subject}_{split}.jsonl")
            with open(data / split / f"{subject}_{split}.csv", newline="", encoding="utf-8") as rows, open(files[split], "w") as out:
                for question, *choices, answer in csv.reader(rows):
                    item = {"question": question, "choices": choices, "answer": "ABCD".index(answer), "subject": subject}
                    out.write(json.dumps(item) + "\n")
        definitions.append({
            "include": str(TASKS / f"mmlu/default/mmlu_{subject}.yaml"),
            "task": f"local_{subject}",
            "tag": None,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": files},
        })
    return write(folder, definitions)


def write(folder, definitions):
    # JSON is YAML.
    for definition in definitions:
        (folder / f"{definition['task']}.yaml").write_text(json.dumps(definition))
    return [definition["task"] for definition in definitions]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["hellaswag", "mmlu"])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    with tempfile.TemporaryDirectory() as folder:
        names = {"hellaswag": hellaswag, "mmlu": mmlu}[args.task](args.data.resolve(), Path(folder))
        model = HFLM(pretrained=str(args.model), device="cpu", dtype="float32", batch_size=args.batch)
        scoring = Clock(model)
        results = lm_eval.simple_evaluate(
            model=model,
            tasks=names,
            task_manager=TaskManager(include_path=folder),
            num_fewshot=args.shots,
            limit=args.limit,
            bootstrap_iters=0,
        )

    tasks = {}
    for name in names:
        samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
        tasks[name.removeprefix("local_")] = {
            "metrics": {key: value for key, value in results["results"][name].items() if isinstance(value, float)},
            "items": [
                {
                    "log_likelihoods": [float(response[0]) for response in sample["filtered_resps"]],
                    **{metric: int(sample[metric]) for metric in ["acc", "acc_norm"] if metric in sample},
                }
                for sample in samples
            ],
        }
    n = sum(len(task["items"]) for task in tasks.values())
    correct = sum(item["acc"] for task in tasks.values() for item in task["items"])
    print(
        f"{n} items, acc {correct / n:.4f}, scored in {scoring.seconds:.1f} s, {scoring.processor:.1f} s of the processor "
        f"(batch {args.batch}, {args.threads} threads)"
    )
    if args.out:
        made_by = f"lm_eval {lm_eval.__version__}, transformers {transformers.__version__}, torch {torch.__version__}, f32"
        head = {"made_by": made_by, "model": args.model.name, "shots": args.shots, "limit": args.limit}
        args.out.write_text(dump(head, tasks))


class Clock:
    """Counts the seconds that a model spends in `loglikelihood`, tokenization included."""

    def __init__(self, model):
        self.seconds = 0.0
        self.processor = 0.0
        inner = model.loglikelihood

        def timed(*args, **kwargs):
            start = time.perf_counter(), time.process_time()
            result = inner(*args, **kwargs)
            self.seconds += time.perf_counter() - start[0]
            self.processor += time.process_time() - start[1]
            return result

        model.loglikelihood = timed


def dump(head, tasks):
    """JSON with a line for each item."""
    lines = [json.dumps(head)[:-1] + ', "tasks": {']
    for i, (name, task) in enumerate(tasks.items()):
        items = ",\n".join(json.dumps(item) for item in task["items"])
        lines.append(f'{json.dumps(name)}: {{"metrics": {json.dumps(task["metrics"])}, "items": [\n{items}\n]}}' + "," * (i + 1 < len(tasks)))
    return "\n".join(lines) + "\n}}\n"


if __name__ == "__main__":
    main()
