"""Which finds of the red team a round on the sandbox may train on: none that its own judgement rests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from actors.redteam.finds import Find
from cluster.inputs.sandbox_prompts import TRAIN, Splits
from learner.records import Prompt


def may_train(splits: Splits) -> Callable[[Find], bool]:
    """Whether a find's conversation is of the train split, for `actors.redteam.finds.finds_as_prompts`.

    A find in one of the world's forms is the conversation of its task and form, whatever stands around it. One in a new form is
    no conversation of the world; where tasks are parted as a whole, its task must be of the train split.
    """
    forms = {form.id for form in splits.world.forms}

    def allowed(find: Find) -> bool:
        try:
            if find.form in forms:
                return splits.purpose(_as(find, find.form)) == TRAIN
            if splits.settings.by != "task":
                return True
            first_form = next(form.id for form in splits.world.forms_for(find.kind, ("seen",)))
            return splits.purpose(_as(find, first_form)) == TRAIN
        except KeyError:  # a task or form of another world, or one that is held out
            return False

    return allowed


def _as(find: Find, form: str) -> Prompt:
    return replace(_NOBODY, attributes={"task_id": find.task_id, "form": form})


_NOBODY = Prompt("", (), "")
