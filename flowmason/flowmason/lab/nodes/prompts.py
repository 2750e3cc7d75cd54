"""What the nodes say to the model. Short on purpose: the smallest model is given them too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FORMATS = {
    "text": "",
    "json": "Answer with JSON only.",
    "markdown": "Answer in Markdown.",
    "html": "Answer with HTML only.",
    "xml": "Answer with XML only.",
    "yaml": "Answer with YAML only.",
    "csv": "Answer with CSV only.",
    "code": "Answer with code only.",
}

CRITIC = "You judge a text. Answer with JSON. Scores go from 0 (bad) to 100 (perfect)."
CRITIC_STRICT = CRITIC + " Be strict: name every flaw."
IMPROVER = "You improve a text as the feedback asks. Answer with JSON."
SELECTOR = "You compare candidates. Answer with JSON. Candidates are numbered from 0. Scores go from 0 to 100."
SYNTHESIZER = "You make one text out of several sources. Answer with JSON. Sources are numbered from 0."

STRATEGIES = {
    "integrate": "Integrate all sources into one coherent text.",
    "summarize": "Summarize what the sources say together.",
    "compare": "Compare the sources: where they agree and where they differ.",
    "consensus": "Write down only what the sources agree on.",
    "best_of": "Take the best parts of the sources and write them as one text.",
}


def _listed(title: str, lines: Sequence[str]) -> str:
    return f"{title}:\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def _numbered(title: str, texts: Sequence[str]) -> str:
    return "\n\n".join(f"{title} {number}:\n{text}" for number, text in enumerate(texts))


def _joined(*parts: str | None) -> str:
    return "\n\n".join(part for part in parts if part)


def critic(
    content: str, criteria: Sequence[str], rubric: Mapping[str, str], context: str | None, keys: Sequence[str]
) -> str:
    """Ask for a judgement of `content`; `keys` are the criteria to be scored one by one."""
    lines = [f"{key}: {rubric[key]}" if key in rubric else key for key in dict.fromkeys([*criteria, *rubric])]
    return _joined(
        f"Context: {context}" if context else None,
        _listed("Criteria", lines),
        f"Text:\n{content}",
        "Judge the text: score, feedback, strengths, improvements"
        + (", and criterion_scores for each criterion." if keys else "."),
    )


def improver(
    content: str, feedback: str, points: Sequence[str], keep: Sequence[str], focus: str | None, again: bool
) -> str:
    """Ask for a better `content`; with `again` also for what is left to do."""
    return _joined(
        f"Text:\n{content}",
        f"Feedback:\n{feedback}",
        _listed("Improve", points),
        _listed("Keep", keep),
        f"Focus on: {focus}" if focus else None,
        "Write the improved text in full, and say what you changed."
        + (" List under remaining what the feedback asks for and is not done yet." if again else ""),
    )


def selector(candidates: Sequence[str], criteria: Sequence[str], context: str | None, count: int) -> str:
    """Ask for the best `count` candidates, best first; 1 asks for one choice."""
    task = (
        "Choose the best candidate: give its index."
        if count == 1
        else f"Rank the {count} best candidates, the best first, each once."
    )
    return _joined(
        f"Context: {context}" if context else None,
        _listed("Criteria", criteria),
        _numbered("Candidate", candidates),
        task,
    )


def synthesizer(
    inputs: Sequence[str], strategy: str, context: str | None, output_format: str, cite: bool, max_length: int | None
) -> str:
    """Ask for one text made of `inputs`."""
    return _joined(
        f"Context: {context}" if context else None,
        _numbered("Source", inputs),
        STRATEGIES[strategy],
        "Name the sources in the text as [0], [1] and so on." if cite else None,
        f"At most {max_length} words." if max_length else None,
        f"Write the text as {output_format}." if output_format != "text" else None,
    )
