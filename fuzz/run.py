"""Fuzz one target with atheris, guided by coverage.

Usage: `python fuzz/run.py stream_gemini --seconds 120`. See README.md.
"""

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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=sorted(targets.TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument(
        "--work",
        type=Path,
        default=None,
        help="folder that collects inputs; default: a temporary one",
    )
    parser.add_argument(
        "--max-length", type=int, default=4096, help="maximum length of an input in bytes"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        seeds_folder = Path(temporary) / "seeds"
        seeds_folder.mkdir()
        for number, seed in enumerate(seeds.SEEDS.get(options.target, ())):
            (seeds_folder / f"seed-{number}").write_bytes(seed)
        corpus = TESTS / "fuzz" / "corpus" / options.target
        corpus.mkdir(parents=True, exist_ok=True)
        flags = [
            f"-max_len={options.max_length}",
            "-timeout=20",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
            f"-artifact_prefix={folder}/crash-",
        ]
        arguments = [
            sys.argv[0],
            f"-max_total_time={options.seconds}",
            *flags,
            str(folder),
            str(corpus),
            str(seeds_folder),
        ]
        atheris.Setup(arguments, targets.TARGETS[options.target])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
