"""What follows a failed or lost attempt: another one, or the end of the stage."""

from __future__ import annotations

from flowmason import event as ev
from flowmason.errors import Code, Failure, Retry
from flowmason.ids import format_path
from flowmason.policy import OnLost
from flowmason.state.tree import StageState
from flowmason.usage import Call, total


def after_failure(
    stage: StageState,
    failure: Failure,
    *,
    now: int,
    jitter: float,
    started_at: int = 0,
    duration_ms: float = 0.0,
    calls: tuple[Call, ...] = (),
) -> ev.StageRetried | ev.StageFailed:
    """`stage.retried` where the policy allows another attempt, else `stage.failed`.

    `now` in ms; `jitter` uniform in 0..1; `calls` are the attempt's model calls.
    """
    failure = failure.at(format_path(stage.path))
    policy = stage.stage.retry
    made = stage.attempt - stage.base - stage.lost
    if failure.retry != Retry.NEVER and made <= policy.max_retries:
        delay = policy.delay_ms(made, jitter)
        if failure.retry == Retry.AFTER and failure.retry_after_ms is not None:
            delay = max(delay, failure.retry_after_ms)
        return ev.StageRetried(
            path=stage.path, attempt=stage.attempt, failure=failure, at=now + delay, usage=total(calls), calls=calls
        )
    return ev.StageFailed(
        path=stage.path,
        attempt=stage.attempt,
        failure=failure,
        started_at=started_at,
        duration_ms=duration_ms,
        usage=total(calls),
        calls=calls,
    )


def after_loss(stage: StageState, failure: Failure, calls: tuple[Call, ...] = ()) -> ev.StageLost | ev.StageFailed:
    """`stage.lost` where the attempt may be repeated, else `stage.failed`.

    A lost unsafe call ends as `OUTCOME_UNKNOWN`; any other is repeated at most `Stage.lost_budget` times. `calls` are
    what is known of the model calls that it made.
    """
    failure, usage = failure.at(format_path(stage.path)), total(calls)
    if stage.stage.on_lost is OnLost.UNKNOWN:
        unknown = Failure(
            code=Code.OUTCOME_UNKNOWN,
            message="the worker died while the stage's effect was under way; it may or may not have happened",
            stage=format_path(stage.path),
            cause=failure,
            help="Look whether the effect happened. To run it again: fm resume RUN --rerun-unknown "
            + format_path(stage.path),
        )
        return ev.StageFailed(path=stage.path, attempt=stage.attempt, failure=unknown, usage=usage, calls=calls)
    if stage.lost < stage.stage.lost_budget:
        return ev.StageLost(path=stage.path, attempt=stage.attempt, failure=failure, usage=usage, calls=calls)
    return ev.StageFailed(path=stage.path, attempt=stage.attempt, failure=failure, usage=usage, calls=calls)


def timed_out(path: str, timeout_ms: int) -> Failure:
    """The stage's own time is over."""
    return Failure(
        code=Code.TIMEOUT,
        message=f"did not finish within {timeout_ms / 1000:g} s",
        type="StageTimeoutError",
        stage=path,
        retry=Retry.NOW,
        help="Raise timeout_ms on the stage if the work needs longer.",
    )
