"""Words that people bring from other tools, answered with our key."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path

from detector.core.console import typed
from detector.core.errors import RequestError
from detector.core.run_folder import RunFolder

# Keys that were called otherwise in earlier versions.
RENAMED = {"data.split": "data.auto_split"}
# Our key -> what it is called elsewhere.
ELSEWHERE = {
    "optim.lr": "lr lr0 learning_rate base_lr",
    "optim": "optimizer optimiser",
    "trainer.max_epochs": "epochs max_epochs num_epochs n_epochs",
    "trainer.max_minutes": "minutes max_time time_limit",
    "trainer.accelerator": "device",
    "trainer.devices": "devices gpus num_gpus nproc",
    "data.batch_size": "batch batch_size bs",
    "data.image_size": "imgsz img_size image_size img size resolution",
    "data.workers": "workers num_workers",
    "data.root": "data root data_dir data_root data_path dataset path source input images",
    "backbone": "model arch architecture network",
    "model.weights": "weights pretrained",
    "model.nms_threshold": "iou iou_thres iou_threshold nms nms_iou",
    "model.score_threshold": "conf confidence conf_thres threshold score score_thresh min_score",
    "ckpt": "resume checkpoint ckpt_path resume_from model_path",
    "hydra.run.dir": "output out out_dir output_dir outdir save_dir work_dir",
    "name": "name project exp_name",
}
# What these keys are for commands that use a trained detector.
OF_A_DETECTOR = {"model.weights": "ckpt", "backbone": "ckpt"}
OF_PREDICT = {**OF_A_DETECTOR, "model.score_threshold": "score_threshold", "data.root": "source"}
INSTEAD = {"evaluate": OF_A_DETECTOR, "predict": OF_PREDICT}
# Groups and keys that have no effect on a trained detector.
OF_TRAINING = ("optim", "finetune", "augment", "trainer.max_epochs", "trainer.limit_train_batches")
IDLE = {"evaluate": OF_TRAINING, "predict": OF_TRAINING}
ACCELERATORS = ("cpu", "mps", "auto")
# Flags of Hydra's own, and how many words follow them.
FLAGS = {
    **dict.fromkeys(("-m", "--multirun", "-r", "--run", "--resolve", "--hydra-help"), 0),
    **dict.fromkeys(("-h", "--help", "--help-all", "--version"), 0),
    **dict.fromkeys(("-c", "--cfg", "-p", "--package", "--experimental-rerun"), 1),
    **dict.fromkeys(("-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir"), 1),
    **dict.fromkeys(("-i", "--info", "-sc", "--shell-completion"), 0),
}


def near_miss(word: str, command: str = "train", known: Collection[str] = ()) -> str | None:
    """What a word from another tool is typed like here.

    Args:
        word: Such as `lr`, `epochs=3`, `--epochs=3` or a path.
        command: Name of the command.
        known: The command's own keys: `momentum` means the only one that ends so.

    Returns:
        Such as `trainer.max_epochs=3`, or the key alone where there is no value; None if it is not
        known.
    """
    name, equals, value = word.lstrip("-+~").partition("=")
    if not equals and _is_path(word):
        return _path(word, command)
    key = _key(name.lower().replace("-", "_"), command)
    if key is None:
        ends = [one for one in known if one.endswith(f".{name}")]
        key = ends[0] if len(ends) == 1 else None
    if key is None or not value:
        return key
    if key == "trainer.accelerator" and value not in ACCELERATORS:
        value = "gpu"
    if key == "model.weights" and value.lower() in ("true", "false"):
        value = "imagenet" if value.lower() == "true" else "none"
    swept = re.fullmatch(r"[\w.+-]+(,[\w.+-]+)+", value)
    return f"{key}={value}" if swept else typed(key, value)


def _key(name: str, command: str) -> str | None:
    """Our key for another tool's, or for that of an earlier version."""
    for old, new in RENAMED.items():
        if f"{name}.".startswith(f"{old}."):
            return new + name.removeprefix(old)
    key = next((key for key, names in ELSEWHERE.items() if name in names.split()), "")
    return INSTEAD.get(command, {}).get(key, key if has_effect(key, command) else "") or None


def has_effect(key: str, command: str) -> bool:
    """Whether a command does anything with a key."""
    return not any(f"{key}.".startswith(f"{idle}.") for idle in IDLE.get(command, ()))


def _is_path(word: str) -> bool:
    """Whether a word looks like a path rather than a key."""
    looks = re.search(
        r"[/\\~]|\.(ckpt|pth?|jpe?g|png|tiff?|bmp|webp|json|ya?ml|xml|zip)$", word, re.I
    )
    return not word.startswith("-") and (looks is not None or Path(word).exists())


def _path(word: str, command: str) -> str:
    """What a bare path means to a command."""
    if re.search(r"\.(ckpt|pth|pt)$", word) or RunFolder(Path(word)).checkpoints.is_dir():
        return typed("ckpt", word)
    if command == "evaluate":
        return typed("predictions" if word.endswith(".json") else "ckpt", word)
    return typed("source" if command == "predict" else "data.root", word)


def check_words(command: str, words: Sequence[str]) -> None:
    """Refuse words that are no KEY=VALUE, before Hydra answers them with its own usage.

    Args:
        command: Name of the command.
        words: Words typed after it.

    Raises:
        RequestError: Naming the word and what it is typed like.
    """
    skipped = 0
    for position, word in enumerate(words):
        if skipped:
            skipped -= 1
        elif word in FLAGS:
            skipped = FLAGS[word]
        elif word.startswith("-") and word.partition("=")[0] not in FLAGS:
            after = words[position + 1 : position + 2]
            value = after[0] if after and not re.match("-|.*=", after[0]) else ""
            whole = f"{word}={value}" if value and "=" not in word else word
            _refuse(whole, near_miss(whole, command) or _as_key(whole), command)
        elif word.startswith("~"):
            raise RequestError(f"{word}: a key cannot be removed; expected KEY=VALUE, or KEY=null")
        elif "=" not in word and not word.startswith("-"):
            _refuse(word, near_miss(word, command), command)


def flags_first(words: Sequence[str]) -> list[str]:
    """The words of a command with its flags in front, where Hydra expects them.

    Args:
        words: Words that `check_words` has found good.
    """
    flags, keys, rest = [], [], iter(words)
    for word in rest:
        if word.startswith("-"):
            flags += [word, *islice(rest, FLAGS.get(word, 0))]
        else:
            keys.append(word)
    return [*flags, *keys]


def _as_key(word: str) -> str | None:
    """An option of ours that was typed with dashes, such as `--optim.lr=0.1`."""
    return word.lstrip("-") if "." in word or "=" in word else None


def _refuse(word: str, meant: str | None, command: str) -> None:
    """Refuse a word."""
    if meant and "=" not in meant:
        meant += "=VALUE"
    hint = f"did you mean {meant}?" if meant else f"see python -m detector.{command} --help"
    raise RequestError(f"{word}: expected KEY=VALUE; {hint}")
