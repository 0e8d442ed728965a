"""Importance-weighted SFT in TRL's SFTTrainer: the loss of every completion is multiplied by its weight, the rest is TRL's.

    trainer = WeightedSFTTrainer(model=…, args=WeightedSFTConfig(output_dir=…), train_dataset=rows, peft_config=…)

The rows are SFTTrainer's, prompt and completion, or messages with assistant_only_loss, with two columns more where there are:
`weight`, the curation weight R_i (0 drops a row), and `reference_logp`, log π_ref of the completion: a number, or a list with
one for each token. Without that column π_ref is the model as it stands when the trainer is made.
"""

from __future__ import annotations

# mypy: disallow-untyped-calls=False
# Methods of TRL's trainer have no types.
import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, broadcast_object_list
from datasets import Dataset
from torch import Tensor
from torch.func import functional_call
from transformers import TrainerCallback, TrainerState
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from iwbc.errors import UserError, warn
from iwbc.language import batches, reference
from iwbc.language.models import digest, modules_without_dropout, without_dropout
from iwbc.language.settings import IWSFT
from iwbc.language.weights import SequenceWeights
from iwbc.system.files import MALFORMED, digest_of, read_tensors, write_tensors

# Of κ times the difference of log-likelihoods that ought to be equal: beyond it weights are mostly noise.
_NOISE_FLOOR = 0.5
STATE = "iwbc_weights.safetensors"  # in a checkpoint, written last


@dataclass
class WeightedSFTConfig(IWSFT, SFTConfig):
    """TRL's SFTConfig with the settings of the weights (settings.IWSFT). kappa=0 is SFT, and then loss_type=dft may be DFT.
    Without an accelerator it trains on the CPU, in float32 unless bf16=True.

    curation_as: rows are drawn in proportion to their `weight` (`sampler`), or their loss is multiplied by it (`loss`).
    too_long: `refuse` a dataset of which more than one row in a hundred is longer than max_length, or `drop` such rows; no
    row is ever cut, as a cut completion has another ratio.
    """

    kappa: str = "auto"  # a number, too, which parsers of command lines hand on as a text
    curation_as: str = "sampler"
    too_long: str = "refuse"

    def __post_init__(self) -> None:
        with contextlib.suppress(ValueError, TypeError):
            self.kappa = float(self.kappa)  # type: ignore[assignment]
        if not torch.accelerator.is_available():
            self.use_cpu = True
        if self.use_cpu and vars(self)["bf16"] is None:
            self.bf16 = False  # TRL's default elsewhere: on a CPU it is slow, and its rounding is noise in the weights
        super().__post_init__()
        self.weighting.check()
        for name, choices in {"curation_as": ("sampler", "loss"), "too_long": ("refuse", "drop")}.items():
            if (value := getattr(self, name)) not in choices:
                raise UserError(f"{name}={value}: must be one of {', '.join(choices)}")
        for name in ("packing", "padding_free"):
            if getattr(self, name):
                raise UserError(f"{name}=True: a weight needs to know where its completion ends; set {name}=False")
        if self.completion_only_loss is False:
            raise UserError("completion_only_loss=False: a weight is a ratio of completions; leave it out")
        if self.label_smoothing_factor:
            raise UserError(f"label_smoothing_factor={self.label_smoothing_factor}: weights have no place in this loss; set 0")
        if self.loss_type == "dft" and self.weighted:
            raise UserError("loss_type=dft: has weights itself; set kappa=0")
        if self.neftune_noise_alpha and self.weighted:
            raise UserError(
                f"neftune_noise_alpha={self.neftune_noise_alpha:g}: noise in likelihoods would be noise in the weights"
            )

    @property
    def weighting(self) -> IWSFT:
        """The settings of the weights alone."""
        return IWSFT(**{each.name: getattr(self, each.name) for each in fields(IWSFT)})


def _plain(field: Any) -> Any:
    """Copy a field without its rule, as HfArgumentParser takes what stands beside a field for arguments of argparse."""
    field = copy.copy(field)
    field.metadata = {name: value for name, value in field.metadata.items() if name not in ("rule", "says", "choices")}
    return field


WeightedSFTConfig.__dataclass_fields__ = {name: _plain(field) for name, field in WeightedSFTConfig.__dataclass_fields__.items()}


class WeightedSFTTrainer(SFTTrainer):
    """SFTTrainer whose loss is (1/tokens) Σ_b w_b Σ_t −log π_θ, w_b = importance weight, rows drawn by curation weight.

    Raises UserError for rows and settings with which the weights would be wrong, and where they are found to be while
    training.
    """

    args: WeightedSFTConfig
    model: Any  # a PreTrainedModel, or PEFT's around one
    data_collator: Any
    train_dataset: Any
    _signature_columns: Any
    _computes_reference: bool
    _reference_sums: Tensor  # log π_ref of completions, [N]
    _reference: reference.TokenLogProbs | None
    _curation: Tensor  # R_i, [N]

    def __init__(self, model: Any, args: WeightedSFTConfig | None = None, *others: Any, **named: Any) -> None:
        if args is None:
            name = model if isinstance(model, str) else model.config.name_or_path or type(model).__name__
            args = WeightedSFTConfig(f"{name.split('/')[-1]}-iw-SFT")
        if not isinstance(args, WeightedSFTConfig):
            raise UserError(f"args: must be a WeightedSFTConfig, not {type(args).__name__}")
        self._rows: Dataset | None = None
        self._nll: list[Tensor] = []  # of micro-batches: its sum, and the tokens
        self._drawn: batches.InProportion | None = None
        super().__init__(model, args, *others, **named)
        self.add_callback(_BeforeEpoch(self))
        for name, adapter in getattr(self.model, "peft_config", {}).items():
            if adapter.is_prompt_learning and adapter.peft_type != "PREFIX_TUNING":
                raise UserError(f"peft_config: {name} puts tokens before the prompt, and these have no weight; take LoRA")
        if self.compute_loss_func is not None:
            raise UserError("compute_loss_func: has a loss of its own, without weights; leave it out")
        parallel = self.accelerator.parallelism_config
        if parallel is not None and (parallel.cp_enabled or parallel.sp_enabled):
            raise UserError("parallelism_config: a weight needs a whole completion; let no process have a part of a sequence")
        if self._rows is None:
            raise UserError("train_dataset: needs a datasets.Dataset with prompt and completion, not a stream, nor images")
        self.train_dataset = rows = self._rows
        self.data_collator = batches.WithRow(self.data_collator)
        device = self.accelerator.device
        lengths = torch.tensor([sum(label != -100 for label in labels[1:]) for labels in rows["labels"]])
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        self._curation = torch.tensor(rows["weight"], dtype=torch.float64, device=device)
        self.importance: SequenceWeights | None = None
        if args.weighted:
            self._without_dropout()
            self._computes_reference = "reference_logp" not in rows.column_names
            self._reference_sums, self._reference = self._log_reference(rows, lengths, offsets)
            self.importance = SequenceWeights(args.weighting, self._curation, lengths.to(device))
            self._proposal: _Proposal = _Proposal(args.weighting, self)
            self.add_callback(_AfterStep(self))

    # --- rows --------------------------------------------------------------------------------------------------------

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, packing: bool, *others: Any) -> Any:
        """Tokenise as TRL does, but never cut a row: one that is too long is dropped, and counted."""
        # The training rows come first; rows to evaluate on may be named train, too.
        if others[-1] != "train" or self._rows is not None or not isinstance(dataset, Dataset):
            return super()._prepare_dataset(dataset, processing_class, args, packing, *others)
        dataset = batches.weighable(dataset, args.assistant_only_loss, args.dataset_text_field)
        uncut = copy.copy(args)
        uncut.max_length = None
        dataset = super()._prepare_dataset(dataset, processing_class, uncut, packing, *others)
        dataset = batches.whole(dataset, args.max_length, args.too_long == "drop")
        if "weight" not in dataset.column_names:
            dataset = dataset.add_column("weight", [1.0] * len(dataset))
        self._rows = dataset.add_column(batches.ROW, list(range(len(dataset))))
        return self._rows

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if batches.ROW not in self._signature_columns:
            self._signature_columns.append(batches.ROW)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        weights = self._curation.cpu()
        if self.args.curation_as == "loss" or bool((weights == weights[0]).all()):
            return super()._get_train_sampler(train_dataset)
        if (strategy := self.args.train_sampling_strategy) != "random":
            raise UserError(
                f"train_sampling_strategy={strategy}: rows are drawn in proportion to their weights; set curation_as=loss"
            )
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self._drawn = batches.InProportion(weights, seed)
        return self._drawn

    def _without_dropout(self) -> None:
        """Set dropout to 0: it would make noise of the ratios."""
        without_dropout(self.model.config, "model")
        modules_without_dropout(self.model, "model")

    # --- reference ---------------------------------------------------------------------------------------------------

    def _log_reference(self, rows: Dataset, lengths: Tensor, offsets: Tensor) -> tuple[Tensor, reference.TokenLogProbs | None]:
        """Return log π_ref of every completion, [N], and of its tokens where they are known."""
        device = self.accelerator.device
        if self._computes_reference:
            values = self._computed_reference(rows, offsets)
        else:
            column = batches.whole_column(rows, "reference_logp")
            if isinstance(column[0], float | int):
                if self.args.by_token:
                    raise UserError(f"reference_logp: level={self.args.level} needs a list, with a number for each token")
                sums = torch.tensor(column, dtype=torch.float64, device=device)
                _check_finite(sums)
                return sums, None
            for row, (numbers, length) in enumerate(zip(column, lengths.tolist(), strict=True)):
                if len(numbers) != length:
                    raise UserError(
                        f"reference_logp: row {row} has {len(numbers)} numbers for {length} tokens of the completion"
                    )
            values = torch.tensor([value for numbers in column for value in numbers])
        _check_finite(values)
        tokens = reference.TokenLogProbs(values.to(device), offsets.to(device))
        sums = torch.zeros(len(lengths), dtype=torch.float64)
        sums.index_add_(0, torch.repeat_interleave(torch.arange(len(lengths)), lengths), values.double())
        return sums.to(device), tokens

    def _computed_reference(self, rows: Dataset, offsets: Tensor) -> Tensor:
        if self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise UserError(
                "reference: cannot be computed by a model that is split among processes; give the rows the column "
                "reference_logp, computed where the model is whole"
            )
        columns = rows.select_columns(["input_ids", "labels"]).to_list()

        def forward(batch: dict[str, Any]) -> Tensor:
            batch = self._prepare_inputs(batch)
            with self.accelerator.autocast():  # as training computes, where accelerate has wrapped the model
                log_probs: Tensor = self.model(**batch, use_cache=False, fused_lm_head=True).log_probs
            return log_probs

        def compute() -> Tensor:
            training = self.model.training
            self.model.to(self.accelerator.device).eval()
            share = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
            size = self.args.per_device_train_batch_size
            with torch.no_grad():
                values = reference.token_log_probs(forward, columns, self.data_collator, offsets, size, share)
            self.model.train(training)
            total: Tensor = self.accelerator.reduce(values.to(self.accelerator.device), "sum")
            return total.cpu()

        kind = f"{self.accelerator.mixed_precision} {self.accelerator.device.type}"
        key = reference.key_of(digest(self.model), columns, kind)
        # One process says what the cache holds: others might look before or after it is written.
        held = [reference.read(key, int(offsets[-1])) if self.accelerator.is_main_process else None]
        values: Tensor | None = broadcast_object_list(held)[0]
        if values is None:
            values = compute()
            if self.accelerator.is_main_process:
                reference.write(key, values)
        return values

    # --- loss --------------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute TRL's loss with log π_θ of every token multiplied by its weight."""
        rows = inputs.pop(batches.ROW, None)
        if rows is None or not self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        weigh = self._weighed(inputs, rows)
        return super().compute_loss(_Weighed(model, weigh), inputs, return_outputs, num_items_in_batch)

    def _weighed(self, inputs: dict[str, Any], rows: Tensor) -> Callable[[Any], Any]:
        labels = inputs["labels"]
        importance = self.importance
        proposal_log_prob = self._proposal.log_probs(inputs) if importance is not None else None

        def weigh(outputs: Any) -> Any:
            log_prob = outputs.log_probs.detach()
            self._nll.append(torch.stack([-log_prob.sum(), outputs.label_mask.sum()]))
            if importance is not None:
                q = log_prob if proposal_log_prob is None else proposal_log_prob
                mask = (labels[:, 1:] != -100).to(log_prob.dtype)
                weights, statistic = importance.of(self._log_ratio(q, rows, mask), mask)
                self._check_start(statistic)
                drift = torch.zeros_like(statistic) if proposal_log_prob is None else (log_prob - q).double().sum(-1)
                importance.observe(rows, statistic, drift)
                outputs.log_probs = outputs.log_probs * weights.to(log_prob.dtype)
            if self.args.curation_as == "loss":
                curation = self._curation[rows] / self._curation.mean()
                outputs.log_probs = outputs.log_probs * curation[:, None].to(log_prob.dtype)
            return outputs

        return weigh

    def _log_ratio(self, log_prob: Tensor, rows: Tensor, mask: Tensor) -> Tensor:
        """Compute ρ = log π_q − log π_ref of every token, [B, T]; where π_ref is known of completions alone, it is spread."""
        log_prob = log_prob.double()
        if self._reference is not None:
            return (log_prob - self._reference.of(rows, mask)) * mask
        return (log_prob - (self._reference_sums[rows] / mask.sum(-1).clamp(min=1))[:, None]) * mask

    def _check_start(self, statistic: Tensor) -> None:
        """Refuse to train where the first step's policy is not the reference: its weights would be noise."""
        assert self.importance is not None
        if self.state.global_step > 0 or self.args.level == "token" or bool(self.importance.seen.any()):
            return
        kappa = self.importance.kappa if self.args.tempered else 1.0
        largest = kappa * float(statistic.abs().max())
        if largest <= _NOISE_FLOOR:
            return
        what = f"before the first step the log of a weight is {largest:.2g} already, and should be 0: "
        if self._computes_reference:
            raise UserError(
                f"reference: {what}log-likelihoods differ between batches by that; train in float32, or set a smaller kappa"
            )
        warn(f"reference_logp: {what}the model does not begin at the reference of that column, or computes otherwise")

    # --- steps -------------------------------------------------------------------------------------------------------

    def after_step(self) -> None:
        """Learn from what a gradient step showed, in all processes alike."""
        assert self.importance is not None
        notes = self.importance.take_notes()
        if notes is not None:
            rows, statistic, drift = notes
            if self.accelerator.num_processes > 1:
                rows, statistic, drift = (
                    self.accelerator.gather(self.accelerator.pad_across_processes(values, pad_index=index))
                    for values, index in ((rows, -1), (statistic, 0.0), (drift, 0.0))
                )
                there = rows >= 0
                rows, statistic, drift = rows[there], statistic[there], drift[there]
            self.importance.learn(rows, statistic, drift)
        self.importance.refresh(self.state.global_step)
        self._proposal.follow(self.state.global_step)
        if self.state.global_step % self.args.refresh_every == 0 and (trouble := self.importance.trouble()):
            raise UserError(f"diverged at step {self.state.global_step:,}: {trouble}")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the negative log-likelihood without weights beside TRL's loss, which has them, and what the weights are."""
        if self.model.training:
            if self._nll:
                total, tokens = self.accelerator.reduce(torch.stack(self._nll).double().sum(0), "sum").tolist()
                logs["nll"], self._nll = total / max(tokens, 1.0), []
            if self.importance is not None:
                logs.update(self.importance.metrics())
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            write_tensors(folder / STATE, self._weights_state(), {"reference": self._reference_digest()})

    def _weights_state(self) -> dict[str, Tensor]:
        if self.importance is None:
            return {}
        return {**self.importance.state(), **self._proposal.state()}

    def _reference_digest(self) -> str:
        return digest_of({} if self.importance is None else {"sums": self._reference_sums, "weight": self._curation}, {})

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._load_weights(checkpoint)

    def restore_finished(self, checkpoint: Path) -> bool:
        """Load a checkpoint of the last step, after which `train` would go on for one more; tell whether it is one."""
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if state.global_step < state.max_steps:
            return False
        self._load_from_checkpoint(str(checkpoint))
        self._load_weights(str(checkpoint))
        self.state = state
        return True

    def _load_weights(self, checkpoint: str) -> None:
        if self.importance is None:
            return
        path = Path(checkpoint) / STATE
        try:
            state, metadata = read_tensors(path)
            if metadata["reference"] != self._reference_digest():
                raise UserError(
                    f"{path}: is of other rows, or another reference, than these; resume with the model of the start"
                )
            self.importance.load(state)
            self._proposal.load(state)
        except MALFORMED as error:
            raise UserError(f"{path}: cannot be continued from ({error}); resume from another checkpoint") from None


class _Proposal:
    """π_q: the policy itself, or parameters that follow the trained ones: their moving average, or a copy of them."""

    def __init__(self, settings: IWSFT, trainer: WeightedSFTTrainer) -> None:
        self._settings, self._trainer = settings, trainer
        self._parameters: dict[str, Tensor] = {}
        if settings.proposal == "policy":
            return
        if trainer.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise UserError(f"proposal={settings.proposal}: the model is split among processes; set proposal=policy")
        self._parameters = {name: value.detach().float().clone() for name, value in self._trained()}

    def _trained(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, value) for name, value in self._trainer.model.named_parameters() if value.requires_grad)

    def follow(self, step: int) -> None:
        """θ_q ← α θ_q + (1 − α) θ; or θ_q ← θ every so many steps."""
        settings = self._settings
        if not self._parameters or (settings.proposal == "copy" and step % settings.copy_every):
            return
        rate = 1.0 - settings.decay if settings.proposal == "ema" else 1.0
        for name, value in self._trained():
            self._parameters[name] = self._parameters[name].to(value.device).lerp_(value.detach().float(), rate)

    def log_probs(self, inputs: dict[str, Any]) -> Tensor | None:
        """Compute log π_q of the completions' tokens, [B, T]; None where π_q is the policy."""
        if not self._parameters:
            return None
        trainer = self._trainer
        parameters = {name: self._parameters[name].to(value.device, value.dtype) for name, value in self._trained()}
        options = {**inputs, "use_cache": False, "fused_lm_head": True}
        with torch.no_grad(), trainer.compute_loss_context_manager():
            log_probs: Tensor = functional_call(trainer.model, parameters, kwargs=options).log_probs
        return log_probs

    def state(self) -> dict[str, Tensor]:
        return {f"proposal.{name}": value for name, value in self._parameters.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        self._parameters = {name: state[f"proposal.{name}"].clone() for name in self._parameters}


class _Weighed:
    """A model whose outputs are weighed before TRL makes a loss of them."""

    def __init__(self, model: Any, weigh: Callable[[Any], Any]) -> None:
        self._model, self._weigh = model, weigh

    def __call__(self, **inputs: Any) -> Any:
        return self._weigh(self._model(**inputs))


class _BeforeEpoch(TrainerCallback):
    """Tells the sampler the epoch, which several processes that resume within it do not."""

    def __init__(self, trainer: WeightedSFTTrainer) -> None:
        self._trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        if self._trainer._drawn is not None:
            self._trainer._drawn.set_epoch(int(state.epoch))


class _AfterStep(TrainerCallback):
    """Calls `after_step` after every gradient step, and before anything is logged or saved."""

    def __init__(self, trainer: WeightedSFTTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, *others: Any, **named: Any) -> None:
        self._trainer.after_step()


def _check_finite(log_probs: Tensor) -> None:
    if not bool(torch.isfinite(log_probs).all()):
        raise UserError("reference: log π_ref of some tokens is not finite")
