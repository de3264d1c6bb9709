"""The command that writes phantoms, also as MURA lays its studies out.

python -m training.make_phantoms OUT --count 100 --seed 0 --regions hand leg --format png dicom
python -m training.make_phantoms OUT --layout mura --count 5000 --size 128
python -m training.make_phantoms --time
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2

from phantoms.files import FORMATS, demo_images, write_phantoms
from phantoms.film import REGIONS, make_phantom
from training.datasets.mura import REGIONS as MURA_REGIONS
from training.mura_layout import plan_images, plan_with_fracatlas, write_mura


def _time(count: int) -> None:
    """Print the time a picture takes, region by region, on the clock and of one processor."""
    cv2.setNumThreads(1)
    print(f"{count} each, 448 px on the long side, one thread")
    print(f"{'region':<10}{'ms/image':>10}{'cpu ms':>10}")
    for region in REGIONS:
        make_phantom(0, region)
        began, used = time.perf_counter(), time.process_time()
        for seed in range(count):
            make_phantom(seed, region)
        clock, cpu = time.perf_counter() - began, time.process_time() - used
        print(f"{region:<10}{clock / count * 1e3:>10.1f}{cpu / count * 1e3:>10.1f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.make_phantoms",
        description="Write synthetic radiographs with known fractures.",
    )
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT", help="folder to write into")
    parser.add_argument("--count", type=int, default=100, help="how many (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="first seed (default: 0)")
    parser.add_argument("--regions", nargs="+", choices=REGIONS, default=REGIONS, help="default: all")
    parser.add_argument("--fracture-share", type=float, default=0.5, help="0-1 (default: 0.5)")
    parser.add_argument(
        "--format", nargs="+", choices=FORMATS, default=["png"], help="in turn (default: png)"
    )
    parser.add_argument("--labels", action="store_true", help="write labels.csv too")
    parser.add_argument("--layout", choices=("files", "mura"), default="files", help="mura: as MURA v1.1 is")
    parser.add_argument(
        "--fracatlas", type=Path, metavar="FOLDER", help="as mura: with its radiographs of hand and shoulder"
    )
    parser.add_argument("--size", type=int, help="long side in pixels (default: 448; 512 as mura)")
    parser.add_argument("--jobs", type=int, help="processes, as mura (default: one a processor)")
    parser.add_argument("--demo", action="store_true", help="write the demo's sample set instead")
    parser.add_argument("--time", action="store_true", help="print ms/image and write nothing")
    args = parser.parse_args(arguments)
    if args.time:
        _time(20)
        return
    if args.out is None:
        parser.error("OUT is missing")
    if args.demo:
        print(f"{len(demo_images(args.out))} files in {args.out}")
        return
    from rich.progress import Progress  # here, so that importing this module stays light

    with Progress() as progress:
        task = progress.add_task("phantoms", total=args.count)
        if args.layout == "mura":
            regions = [r for r in args.regions if r in MURA_REGIONS]
            plan = partial(plan_with_fracatlas, fracatlas=args.fracatlas) if args.fracatlas else plan_images
            images = plan(args.count, seed=args.seed, regions=regions, abnormal_share=args.fracture_share)
            folder = write_mura(
                args.out,
                images,
                longest=args.size or 512,
                jobs=args.jobs,
                on_progress=lambda done: progress.update(task, completed=done),
            )
            print(f"{len(images)} files in {folder}")
            return
        paths = write_phantoms(
            args.out,
            args.count,
            seed=args.seed,
            regions=args.regions,
            fracture_share=args.fracture_share,
            formats=args.format,
            labels=args.labels,
            longest=args.size or 448,
            on_progress=lambda done: progress.update(task, completed=done),
        )
    print(f"{len(paths)} files in {args.out}")


if __name__ == "__main__":
    main()
