"""A run as a model of the Hugging Face Hub: its folder, with a model card, and the upload."""

from __future__ import annotations

from pathlib import Path

from iwbc.errors import UserError
from iwbc.runs.read import SavedRun, finished_summary
from iwbc.runs.show import facts, sentences
from iwbc.runs.summary import Summary
from iwbc.system.files import write_bytes

_FILES = ("policy.safetensors", "config.yaml", "summary.json", "evaluations.csv", "run.html")
_REPO = "<user>/<name>"  # until it is known


def write_folder(saved: SavedRun, out: Path) -> None:
    """Write or replace the folder's files. The video of the best episode, where there is one, is replay.mp4, as the Hub plays
    it. Raises UserError where `out` is not a folder."""
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out}: is a file; give a folder")
    out.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        if (path := saved.folder / name).exists():
            write_bytes(out / name, path.read_bytes())
    for video in (saved.folder / "videos").glob("*"):
        write_bytes(out / "videos" / video.name, video.read_bytes())
        if video.name == "best.mp4":
            write_bytes(out / "replay.mp4", video.read_bytes())
    write_bytes(out / "README.md", model_card(saved.summary).encode())


def model_card(summary: Summary, repo: str = _REPO) -> str:
    """Write the model card: YAML that the Hub reads, results, and how to use the policy."""
    from jinja2 import Environment, FileSystemLoader

    # Markdown, which nothing renders as it stands: HTML's escapes would be read as they are.
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=False)
    metrics: list[tuple[str, str | float]] = []
    if (final := summary.totals.get("final")) is not None:
        low, high = final.return_interval
        metrics.append(("mean_reward", f"{final.return_mean:.2f} [{low:.2f}, {high:.2f}]"))
        others = {"score_mean": final.score_mean, "success_rate": final.success_rate}
        metrics += [(name, round(mean, 4)) for name, mean in others.items() if mean is not None]
    return templates.get_template("model_card.md").render(
        env=None if summary.environment is None else summary.environment.id,
        method=summary.method,
        metrics=metrics,
        dataset=summary.dataset,
        version=summary.versions["iwbc"],
        lead=sentences(summary),
        facts=facts(summary),
        repo=repo,
    )


def upload(folder: Path, repo: str, private: bool) -> str:
    """Upload the folder as a model, in one commit; its address. Raises UserError where the Hub refuses or cannot be reached."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
    except ImportError:
        raise UserError("repo: needs huggingface_hub: pip install huggingface_hub") from None
    write_bytes(folder / "README.md", model_card(finished_summary(folder), repo).encode())
    try:
        api = HfApi()
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Policy, model card and results, by iwbc")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        raise UserError(f"repo={repo}: {' '.join(str(error).split())}") from None
    return str(address)
