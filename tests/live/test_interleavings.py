"""Jobs do not affect each other: random interleavings of many jobs, some cancelled, some failing, some
closed.
"""

import random

import pytest
import torch

from lexiscope.errors import LexiscopeError
from lexiscope.language_model import hook_name
from lexiscope.records.live import SteerDone
from server.live.generation import Batches, Pause
from server.live.interventions import Cancelled
from server.live.jobs import steer
from tests.live.jobs import events_of

PROMPTS = ("A", "Once upon a time", "The bird is on the roof of the house")
TURNS = 300


def random_job(tiny, draw):
    modes = [
        lambda layer: tiny.does(layer, draw.randrange(48), "add", draw.uniform(-3, 3)),
        lambda layer: tiny.does(layer, draw.randrange(48), "orthogonal", draw.uniform(-3, 3)),
        lambda layer: tiny.does(layer, draw.randrange(48), "ablate"),
        lambda layer: tiny.does(layer, draw.randrange(48), "clamp", draw.uniform(0, 20), unit="activation"),
        lambda layer: tiny.does(
            layer, 3, "swap", 1.0, to=tiny.at(layer, draw.randrange(48)), when=tiny.at(0, 5)
        ),
        lambda layer: tiny.does(layer, 3, "add", 3e38),  # ends in an error: no finite probabilities
    ]
    does = [draw.choice(modes)(draw.randrange(2)) for _ in range(draw.randint(1, 3))]
    return tiny.job(
        *does,
        prompt=draw.choice(PROMPTS),
        seed=draw.randrange(3),
        max_tokens=draw.choice([1, 6, 14]),
        moved=tiny.source(1),
    )


@pytest.mark.timeout(900)
def test_no_interleaving_of_steers_changes_an_unsteered_row(tiny, model_cache):
    draw, batches = random.Random(6), Batches()
    model = model_cache.model(tiny.model_path, "tiny").model
    probe = torch.tensor([[model.bos, *model.tokenise(PROMPTS[1])]] * 2)
    before = model.logits(probe)
    alone: dict[tuple[object, ...], str] = {}
    running: list[tuple[object, object, dict[str, bool]]] = []
    ended = {"done": 0, "cancelled": 0, "failed": 0, "abandoned": 0}

    def expected(job):
        key = (job.prompt, job.seed, job.max_tokens)
        if key not in alone:
            nothing = job.model_copy(update={"interventions": [tiny.does(0, 3, "add", 0.0)], "moved": None})
            own = Batches()
            alone[key] = list(events_of(steer(nothing, model_cache, own), own))[-1].default_text
        return alone[key]

    def advance(entry):
        """One job up to its next pause; True when it is over."""
        job, work, _ = entry
        try:
            for found in work:
                if isinstance(found, Pause):
                    return False
                if isinstance(found, SteerDone):
                    assert found.default_text == expected(job)
                    ended["done"] += 1
        except Cancelled:
            ended["cancelled"] += 1
        except LexiscopeError:
            ended["failed"] += 1
        return True

    for _ in range(TURNS):
        if len(running) < 5 and draw.random() < 0.3:
            job, flag = random_job(tiny, draw), {"cancelled": False}
            work = steer(job, model_cache, batches, cancelled=lambda flag=flag: flag["cancelled"])
            entry = (job, work, flag)
            if not advance(entry):
                running.append(entry)
        if running and draw.random() < 0.08:
            draw.choice(running)[2]["cancelled"] = True
        if running and draw.random() < 0.04:
            running.pop(draw.randrange(len(running)))[1].close()
            ended["abandoned"] += 1
        batches.step()
        draw.shuffle(running)
        running = [entry for entry in running if not advance(entry)]
        assert not any(model._bridge.hook_dict[hook_name(layer)].fwd_hooks for layer in (0, 1))
    for _, work, _ in running:
        work.close()
    assert batches.step() == 0 and min(ended.values()) > 4, ended
    assert torch.equal(model.logits(probe), before)


def test_the_strength_of_other_jobs_changes_no_bit_of_the_default_row(tiny, model_cache):
    """Two batches of the same shape: in one the others are steered hard, in the other hardly."""
    logits = {}
    for strength in (0.01, 3.0):
        batches, model = Batches(), model_cache.model(tiny.model_path, "tiny").model
        work = [steer(tiny.job((0, 3, "add", 0.0), prompt=PROMPTS[1]), model_cache, batches)]
        work += [
            steer(tiny.job((0, i, "add", strength), temperature=0.0, prompt=PROMPTS[2]), model_cache, batches)
            for i in (5, 9)
        ]
        rows = []
        for one in work:
            for found in one:
                if found is Pause.STEP:
                    break
        [group] = batches._groups
        for _ in range(6):
            batches.step()
            rows.append(group.jobs[0].logits.clone())
            for one in work:
                next(found for found in one if found is Pause.STEP)
        logits[strength] = torch.stack(rows)
        for one in work:
            one.close()
    assert torch.equal(logits[3.0][:, 0], logits[3.0][:, 1]), "strength 0 is the unsteered row, in every bit"
    assert torch.equal(logits[0.01], logits[3.0])
    assert model is model_cache.model(tiny.model_path, "tiny").model
