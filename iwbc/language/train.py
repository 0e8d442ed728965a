"""Train a language model on rows of prompt, completion and score, by importance-weighted SFT.

    python -m iwbc.language.train model=FOLDER data=rows.jsonl [setting=value …]            one run
    python -m iwbc.language.train -m model=FOLDER data=rows.jsonl algo.kappa=0,1,auto       a sweep
    accelerate launch -m iwbc.language.train model=FOLDER data=rows.jsonl out=run           several GPUs; out must be given

model      a folder of a model or an adapter, or a name on the Hugging Face Hub
data       JSON Lines, or a folder of the library datasets: prompt and completion, or messages; reward, success or level
reference  π_ref, of which the failures in the file tell what the rows' author does:
           fit: the model fitted to all rows first (fit.epochs, fit.lr, …), kept in the cache; training starts from it. The
           default of iw_sft where there are failures
           start: the model, from which the rows were sampled; the default of sft and dft, which need none
           logp: the rows' logp, or token_logps; training starts from the model

Groups (group=choice, the first is the default)
  algo       iw_sft: importance-weighted SFT      sft: SFT of the kept rows      dft: dynamic fine-tuning
             iw_sft_paper: the paper's clipped product      iw_sft_published: the published code's weights
  curation   success, all, quality_levels, top_fraction, threshold, return_weighted, groups, weights, scores: as iwbc
             train's, of rewards (curation.rank_by=length: shorter completions are better), the rows' group, or a file with
             the rows' numbers, from 0, as trajectory
             level: drawn in proportion to the rows' level
  +method    sft_q: sft with quality_levels

Settings
  out                    the run's folder (default: outputs/language/DATE/TIME-algo)
  algo.kappa=auto        κ in w = exp(κ · Σ log (π/π_ref)); auto: as much as the weights can be relied on; 0 is SFT
  epochs=3 steps=null    steps, if given, takes the place of epochs
  lr=1e-5 warmup=0.05 schedule=cosine batch_size=32     rows of a gradient step, in all processes and micro-batches
  lora.rank=16           train adapters (lora.alpha, lora.targets) in place of the model
  max_length=1024 too_long=refuse    tokens of a row; drop: leave out rows that are longer, none is ever cut
  prompts verifier samples=16 max_new_tokens=256     score the trained model, sampled and greedy, as iwbc language evaluate
  curation_as=sampler    rows are drawn in proportion to their curation weight; loss: their loss is multiplied by it
  seed=0 threads log_every=10 checkpoint_every=100 dtype=float32 tokenizer gguf
  trainer.NAME=…         any other setting of TRL's SFTConfig: trainer.gradient_accumulation_steps=4, trainer.bf16=true,
                         trainer.report_to=wandb (offline) or tensorboard
--cfg job prints every setting with its value.

After Ctrl-C the same command goes on, bit for bit on a CPU. `iwbc report` puts runs beside each other, `iwbc verify` checks a
run. Needs the extra language.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from iwbc.errors import Interrupted, UserError, extra
from iwbc.language import report
from iwbc.language.config import validate
from iwbc.runs.command import HydraCommand, run_command
from iwbc.system.files import config_folder

importlib.import_module("iwbc.language.sweeps")  # registers what conf/language/ resolves
FOLDER = str(Path(config_folder()) / "language")


def main() -> None:
    """Run the command: exit code 0, 2 for what the user can put right, 130 when interrupted."""
    # SFTConfig's names are not in the configuration, and Hydra sets no unknown name without the signs.
    sys.argv[1:] = [f"++{argument}" if argument.startswith("trainer.") else argument for argument in sys.argv[1:]]
    run_command(HydraCommand("iwbc.language.train", __doc__ or "", FOLDER, "data=rows.jsonl", _job))


def _job(composed: DictConfig, folder: Path, in_sweep: bool) -> float | None:
    """Do one run and return pass@1, which a search maximises, where there is one."""
    train = validate(composed)
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several and (in_sweep or train.out is None):
        raise UserError("out: must be given, and no sweep be, where several processes train together")
    if "wandb" in str(train.trainer.get("report_to")):
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_DIR", str(folder))
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard")
    try:
        from iwbc.language.pipeline import begun, run
    except ImportError as error:
        if (error.name or "iwbc").startswith("iwbc"):
            raise
        raise UserError(f"iwbc language train: {extra('language')}") from None
    try:
        summary = run(train, folder, lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        if not begun(folder):
            raise
        settings = [word for word in HydraConfig.get().overrides.task if not word.startswith("out=")]
        raise Interrupted(shlex.join([*settings, f"out={os.path.relpath(folder)}"])) from None
    if summary and not in_sweep:
        report.show([folder])
        print(f"Run folder: {os.path.relpath(folder)}")
    scores = summary.get("scores", {}).get("evaluation")
    return None if scores is None else float(scores["pass_at"]["1"])


if __name__ == "__main__":
    main()
