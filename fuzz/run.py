"""Coverage-guided fuzzing of one target with atheris: `python fuzz/run.py stream_gemini --seconds 120`. See README.md."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests"
sys.path[:0] = [str(HERE.parent), str(TESTS), str(TESTS / "providers"), str(TESTS / "fuzz")]

with atheris.instrument_imports(
    include=["majordomo", "PIL.PngImagePlugin", "PIL.JpegImagePlugin", "PIL.WebPImagePlugin"]
):
    import seeds
    import targets


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("target", choices=sorted(targets.TARGETS))
    options.add_argument("--seconds", type=int, default=60)
    options.add_argument(
        "--work",
        type=Path,
        default=None,
        help="where inputs are collected; default: a folder that is thrown away",
    )
    options.add_argument("--longest", type=int, default=4096, help="bytes of an input")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        folder = chosen.work or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        begin = Path(passing) / "seeds"
        begin.mkdir()
        for number, seed in enumerate(seeds.SEEDS.get(chosen.target, ())):
            (begin / f"seed-{number}").write_bytes(seed)
        kept = TESTS / "fuzz" / "corpus" / chosen.target
        kept.mkdir(parents=True, exist_ok=True)
        flags = [
            f"-max_len={chosen.longest}",
            "-timeout=20",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
            f"-artifact_prefix={folder}/crash-",
        ]
        arguments = [
            sys.argv[0],
            f"-max_total_time={chosen.seconds}",
            *flags,
            str(folder),
            str(kept),
            str(begin),
        ]
        atheris.Setup(arguments, targets.TARGETS[chosen.target])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
