"""The events of a steer as Neuronpedia's frames: each has both texts as far as they are written."""

from lexiscope.records.live import GeneratedToken, SteerDone, SteerError, SteerStep
from server.live.messages import Event
from server.neuronpedia.features import plain_text
from server.neuronpedia.records import GeneratedLogprob, SteerCompletion, TokenLogprob


class SteerFrames:
    """Collects the events of one steer of `prompt`."""

    def __init__(self, prompt: str) -> None:
        self._texts = {"default": prompt, "steered": prompt}
        self._logprobs: dict[str, list[GeneratedLogprob]] = {"default": [], "steered": []}
        self._prompt = prompt

    def after(self, event: Event) -> SteerCompletion | SteerError | None:
        """The frame after an event; None after one that changes nothing."""
        match event:
            case SteerStep():
                self._add("default", event.default)
                self._add("steered", event.steered)
            case SteerDone():
                self._texts["default"] = self._prompt + event.default_text
                self._texts["steered"] = self._prompt + event.steered_text
            case SteerError():
                return event
            case _:
                return None
        return self.frame()

    def frame(self) -> SteerCompletion:
        return SteerCompletion(
            STEERED=self._texts["steered"],
            DEFAULT=self._texts["default"],
            steeredLogProbs=self._logprobs["steered"],
            defaultLogProbs=self._logprobs["default"],
        )

    def _add(self, row: str, token: GeneratedToken | None) -> None:
        if token is None:
            return
        self._texts[row] += token.text
        top = [TokenLogprob(token=plain_text(other), logprob=other.score) for other in token.top]
        self._logprobs[row].append(
            GeneratedLogprob(token=plain_text(token.token), logprob=token.logprob, topLogprobs=top)
        )
