"""Scores of LongBench's own metrics for made-up predictions: `crates/eval/testdata/longbench_metrics.jsonl`.

    python longbench_metrics.py METRICS.PY OUT

METRICS.PY is `LongBench/metrics.py` of THUDM/LongBench (8ae23fd444b0ed5837e993fb8d764f70b388c568 or later); it needs the packages
rouge 1.0.1, fuzzywuzzy 0.18.0 and jieba, and no python-Levenshtein.
"""

import importlib.util
import json
import random
import sys
import warnings

warnings.filterwarnings("ignore")
spec = importlib.util.spec_from_file_location("metrics", sys.argv[1])
metrics = importlib.util.module_from_spec(spec)
spec.loader.exec_module(metrics)

random.seed(7)
WORDS = "the a an cat dog Paris's red-hot 12 7 IS not The Émile ÀN théâtre river a.b e.g. U.S. x_y naïve 50% run runs".split()
MARKS = ["", "", "", "", ".", ",", "!", ". .", "...", "\n", "\u00a0", "  ", "?\n"]
CLASSES = ["Food", "Fast food", "Food and drink", "Animal", "animal", "Human being", "being", "Date", "Dates"]
CODE = ["return", "x", "=", "self.", "(", ")", "value", "if ", "for i in range(n):", "  ", "\t", "y", "+= 1", "'", "foo", "::", "->", "&mut "]


def text(n):
    return " ".join(random.choice(WORDS) + random.choice(MARKS) for _ in range(n))


def changed(words, rate):
    return " ".join(random.choice(WORDS) if random.random() < rate else word for word in words.split(" "))


def line(n):
    return "".join(random.choice(CODE) for _ in range(n))


def cases():
    for n in [1, 2, 5, 20, 60]:
        for _ in range(6):
            answer = text(n)
            for prediction in [changed(answer, 0.3), text(random.randint(1, n + 3))]:
                yield "f1", prediction, answer, []
                yield "rouge_l", prediction, answer, []
    for prediction, answer in [("", "a cat"), ("the", "the"), (" ", "cat"), (".", "cat"), ("cat", "."), ("...", " . "), ("cat", "")]:
        yield "f1", prediction, answer, []
        yield "rouge_l", prediction, answer, []
    for _ in range(60):
        named = random.sample(CLASSES, random.randint(0, 4))
        classes = random.sample(CLASSES, random.randint(3, len(CLASSES)))
        yield "classification", " or ".join(named) + ".", random.choice(CLASSES), classes
    for _ in range(30):
        prediction = random.choice(["", "Paragraph ", "It is ", "12 "]) + random.choice(["3", "12", "03", "3.5", "none", "3 3 4"])
        yield "count", prediction, random.choice(["3", "12"]), []
        yield "retrieval", prediction, "Paragraph " + random.choice(["3", "12 or Paragraph 3"]), []
        yield "retrieval_zh", prediction, "段落" + random.choice(["3", "12"]), []
    for n in [1, 4, 12, 60]:
        for _ in range(8):
            answer = line(n)
            middle = random.randint(0, len(answer))
            near = answer[:middle] + line(2) + answer[middle + 3 :]
            for prediction in [near, line(n), "\n\n# what follows\n```\n" + near + "\nmore", "// " + near, "\n\n" + near]:
                yield "code_similarity", prediction, answer, []


FUNCTIONS = {
    "f1": metrics.qa_f1_score,
    "rouge_l": metrics.rouge_score,
    "classification": metrics.classification_score,
    "count": metrics.count_score,
    "retrieval": metrics.retrieval_score,
    "retrieval_zh": metrics.retrieval_zh_score,
    "code_similarity": metrics.code_sim_score,
}

with open(sys.argv[2], "w", encoding="utf-8") as out:
    for metric, prediction, answer, classes in cases():
        score = FUNCTIONS[metric](prediction, answer, all_classes=classes)
        out.write(json.dumps([metric, prediction, answer, classes, score], ensure_ascii=False) + "\n")
