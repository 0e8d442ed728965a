"""Take a run's policy away: one file that needs no iwbc, or a folder as the Hugging Face Hub lays out models.

    python -m iwbc.export FOLDER format=onnx

FOLDER    a finished run's
format    onnx: for ONNX Runtime (needs the extra onnx); torchscript: for PyTorch alone
          hub: a folder with a model card, the policy, its settings and results
seed      which of the run's seeds (default: the first; hub holds all)
action    mean (default), or sample: then the noise is an input of its own, so that nothing is drawn inside
out       the file or folder to write (default: policy.onnx, policy.pt or hub/ in the run's folder)
repo      user/name, with format=hub: upload the folder there (with the token of `hf auth login` or HF_TOKEN); otherwise
          nothing leaves this machine
private   true or false, of a repository that does not exist yet (default false)
policy    package.module.Name, where the run has a policy of your own; then only the mean action is exported
imports   module,module that register its algorithm, where that is one of your own

A file takes observations [B, obs] as float32 and gives actions [B, act], clipped to the range that the training data declares,
as policy.predict does: observation normaliser and action scaling are inside. What else it takes, and what it was trained on,
stands in its metadata. Of a policy with history it takes the last observations, [B, history, obs], the newest last (at the
start of an episode the first one again and again), and of a policy of chunks it gives [B, chunk, act], of which `execute` are
played before it is asked again. Of a policy that reads sequences it takes the observations since its memory began, the newest
at the places `newest` [B] in [B, sequence, obs], after which anything may stand. The metadata have all four numbers.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iwbc.errors import UserError, extra
from iwbc.settings import ACTIONS, Settings, setting
from iwbc.system.arguments import at_least, parse, run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from iwbc.data.windows import Sequences
    from iwbc.runs.summary import Summary
    from iwbc.training.trained import Policies


@dataclass
class Options(Settings):
    run: Path
    format: str = setting(MISSING, choices=("onnx", "torchscript", "hub"))
    seed: int | None = at_least(0, None)
    action: str = setting("mean", choices=ACTIONS)
    out: Path | None = None
    repo: str | None = None
    private: bool = False
    policy: str | None = None
    imports: list[str] = field(default_factory=list)


_NAMES = {"onnx": "policy.onnx", "torchscript": "policy.pt", "hub": "hub"}


def main(arguments: Sequence[str]) -> None:
    """Write what is asked for and print where it is."""
    options = parse(arguments, Options)
    kind = options.format
    if options.repo is not None and kind != "hub":
        raise UserError("repo: goes with format=hub alone")

    from iwbc.runs.read import open_run

    saved = open_run(options.run, options.imports)
    policies = saved.policies(options.policy)
    if options.seed is not None:
        if options.seed not in policies.seeds:
            raise UserError(f"seed={options.seed}: the run has {', '.join(map(str, policies.seeds))}")
        policies = policies.select(options.seed)
    out = options.out or saved.folder / _NAMES[kind]
    try:
        if kind == "hub":
            from iwbc.runs.hub import upload, write_folder

            write_folder(saved, out)
            if options.repo is not None:
                print(upload(out, options.repo, options.private))
        elif kind == "onnx":
            write_onnx(policies, out, options.action, described(saved.summary, policies))
        else:
            write_torchscript(policies, out, options.action, described(saved.summary, policies))
    except OSError as error:
        raise UserError(f"out={out}: cannot be written ({error.strerror or error})") from None
    print(out)


def described(summary: Summary, policies: Policies) -> dict[str, str]:
    """List what an exported file says of itself, as text."""
    spaces, environment, final = policies.spaces, summary.environment, summary.totals.get("final")
    return {
        "method": summary.method,
        "seed": str(policies.seeds[0]),
        "dataset": summary.dataset.id,
        "dataset_content_hash": summary.dataset.content_hash,
        "environment": json.dumps(None if environment is None else environment.to_plain()),
        "results": json.dumps(None if final is None else asdict(final)),
        # What structured observations are flattened from, in the order of the vector.
        "observation_parts": json.dumps(asdict(spaces)["observation_parts"]),
        # Sizes beside the batch's: of observations [B, history, obs] and actions [B, chunk, act], without those that are 1.
        **{name: str(getattr(policies[0], name, 1)) for name in ("history", "chunk", "execute", "sequence")},
        "iwbc": summary.versions["iwbc"],
    }


def playable(policies: Policies, action: str = "mean") -> tuple[nn.Module, dict[str, Any]]:
    """Make the first policy a module from observations [B, obs] (and noise, where actions are sampled) to actions [B, act],
    clipped, or, with history and chunks, from [B, history, obs] to [B, chunk, act]; and examples of its inputs, by name. Raises
    UserError where a policy draws noise of its own, or takes images."""
    import torch
    from torch import nn

    from iwbc.environments.spaces import float32_bounds
    from iwbc.policies.policy import window_of

    policy, spaces = copy.deepcopy(policies[0]), policies.spaces
    if spaces.images:
        raise UserError(
            "format: a policy that takes images is not written as onnx or torchscript; format=hub takes it as it is"
        )
    if action == "sample" and not hasattr(policy, "sample_from"):
        raise UserError(f"action=sample: {type(policy).__name__} draws its noise itself (it has no sample_from)")

    window = window_of(policy)

    class Playable(nn.Module):
        low: Tensor
        high: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.policy = policy
            for name, bound in zip(("low", "high"), float32_bounds(spaces.action_low, spaces.action_high), strict=True):
                self.register_buffer(name, torch.from_numpy(bound))

        def forward(self, observation: Tensor, *others: Tensor) -> Tensor:
            seen, noise = (observation, others) if window.sequence == 1 else (_read(observation, others[0]), others[1:])
            made = self.policy.sample_from(seen, *noise) if noise else self.policy.mean_action(seen)
            return torch.maximum(torch.minimum(made, self.high), self.low)

    steps = [max(window.history, window.sequence)] if window.history > 1 or window.sequence > 1 else []
    examples = {"observation": torch.zeros(3, *steps, spaces.observation_size)}
    if window.sequence > 1:
        examples["newest"] = torch.zeros(3, dtype=torch.int64)
    if action == "sample":
        noise = policy.noise(3, torch.Generator().manual_seed(0))
        examples |= dict(zip(("uniform", "noise") if len(noise) == 2 else ("noise",), noise, strict=True))
    module = Playable().eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module, examples


def _read(observations: Tensor, newest: Tensor) -> Sequences:
    """Make Sequences of observations [B, sequence, obs] in which the steps at places [B] are meant, and 0 comes after them."""
    import torch

    from iwbc.data.windows import Sequences

    after = torch.arange(observations.shape[1], device=newest.device) > newest[:, None]
    seen = torch.where(after[..., None], 0.0, observations)  # NaN there would be NaN in what attends to it with a weight of 0
    return Sequences(seen, torch.arange(newest.shape[0], device=newest.device), newest)


def write_onnx(policies: Policies, out: Path, action: str, metadata: dict[str, str]) -> None:
    """Write an ONNX file. Raises UserError where its libraries are missing, or the policy is one of the user's own that
    cannot be put so."""
    import logging
    import tempfile
    import warnings

    import torch

    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError(f"format=onnx: {extra('onnx')}") from None
    from iwbc.system.files import write_bytes

    module, examples = playable(policies, action)
    batch = torch.export.Dim("batch")
    first, *others = [{0: batch}] * len(examples)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # of torchvision, which is not installed
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module,
                tuple(examples.values()),
                dynamo=True,
                input_names=list(examples),
                output_names=["action"],
                dynamic_shapes=(first, tuple(others)) if others else (first,),
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            reason = str(error).split("## Exception summary")[-1].split("\n\n")[0].strip() or type(error).__name__
            raise UserError(
                f"format=onnx: {type(policies[0]).__name__} cannot be exported ({' '.join(reason.split())})"
            ) from None
        assert program is not None
        program.model.metadata_props.update(metadata)
        program.save(Path(folder) / "policy.onnx")
        write_bytes(out, (Path(folder) / "policy.onnx").read_bytes())


def write_torchscript(policies: Policies, out: Path, action: str, metadata: dict[str, str]) -> None:
    """Write a TorchScript file; its metadata is the extra file policy.json."""
    import io
    import warnings

    import torch

    from iwbc.system.files import write_bytes

    module, examples = playable(policies, action)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is old
        traced = torch.jit.trace(module, tuple(examples.values()))
        torch.jit.save(torch.jit.freeze(traced), content, _extra_files={"policy.json": json.dumps(metadata)})
    write_bytes(out, content.getvalue())


if __name__ == "__main__":
    run(main, __doc__)
