"""Bindings of a configuration after everything is built: which ones an override replaced, and which nothing used."""

import re
from collections import defaultdict

from htc_tf.errors import UserError, listed

# Parameters of an Input that it does not read unless Input.training is True.
TRAINING_ONLY = ("augment", "resize", "color_jitter", "paste", "balance", "shuffle_buffer")


def superseded(resolved, operative, own_names, replaced):
    """Returns the bindings that an override replaced.

    They are those of configurables that nothing refers to any more, such as ResNet.depth once the backbone is a Swin,
    and macros that the override does without, such as WARMUP_STEPS once it binds `StepSchedule.warmup_steps` itself.

    Args:
        resolved: str, gin's whole configuration.
        operative: str, the part of it that has reached something, after everything is built.
        own_names: {name} that nothing later can have replaced: those of the flags, and those that a file binds itself,
            not its includes, although neither it nor what precedes it refers to them.
        replaced: {name} of the macros behind settings that the records have replaced.
    Raises:
        UserError: Another binding has not reached anything that was built.
    """
    unused = bound_names(resolved) - used_names(resolved, operative)
    left, count = {name for name in unused - own_names if "." not in name} | unused & replaced, -1
    while count < len(left):  # a replaced binding may have been the last to refer to another configurable
        count = len(left)
        named = set(re.findall(r"@(?:\w+/)*([\w.]+)", drop_bindings(resolved, left)))
        left |= {name for name in unused - own_names if "." in name and configurable_of(name) not in named}
    if unused - left:
        raise UserError(
            f"gin configuration: nothing used {listed(sorted(unused - left))}; it is misspelled, or belongs to a part "
            "that this model lacks"
        )
    return left


def check_effect(resolved, operative, sources):
    """Checks that a call reads each binding of the user, and that no binding of a deeper scope hides it everywhere.

    Args:
        resolved: str, gin's whole configuration.
        operative: str, the part of it that has reached something, after everything is built.
        sources: [(own, bound)] of each file and of the flags: {name} that it binds itself, without its includes, and
            {name} bound once it is read. What comes later may hide a binding, as it may replace one.
    Raises:
        UserError: A binding was hidden from the beginning, or reaches only an Input that does not read it.
    """
    called, unread = called_names(resolved, operative), set()
    for prefix in re.findall(r"^(.*\bInput\.)training = False$", operative, re.MULTILINE):
        unread |= {prefix + parameter for parameter in TRAINING_ONLY}
    called -= unread
    reached = {outer for name in called for outer in outer_names(name)}
    for own, bound in sources:
        winners = defaultdict(set)
        for name in called:
            found = [outer for outer in outer_names(name) if outer in bound]
            for outer in found:
                winners[outer].add(found[-1])
        for name in sorted(own & unread - reached):
            raise UserError(f"gin configuration: {name} has no effect: an Input with training = False does not read it")
        for name in sorted(own & winners.keys()):
            if "." in name and name not in winners[name]:
                verb, these = ("is", "that") if len(winners[name]) == 1 else ("are", "those")
                scoped = listed(sorted(winners[name]))
                raise UserError(f"gin configuration: {name} has no effect: {scoped} {verb} bound; bind {these}")


def used_names(resolved, operative):
    """Returns the bindings that have reached something that was built, or will reach something called later.

    Among them are those that a binding of a deeper scope hides: `check_effect` says which of them are mistakes.
    """
    return {outer for name in called_names(resolved, operative) for outer in outer_names(name)}


def called_names(resolved, operative):
    """Returns "scope/Name.parameter" of the calls while everything was built, and of those that come later."""
    bound, called = bound_names(resolved), bound_names(operative)
    # A reference without parentheses, such as an augmentation, is called only later, in the scope of the reference.
    for reference in re.findall(r"@((?:\w+/)*[\w.]+)(?![\w./]*\()", operative):
        configurable = reference.split("/")[-1]
        called |= {f"{reference}.{name.rpartition('.')[2]}" for name in bound if configurable_of(name) == configurable}
    return called


def outer_names(name):
    """Returns the names whose bindings a call in scope a/b takes: without a scope, in a, and in a/b, which wins."""
    *scopes, parameter = name.split("/")
    return ["/".join([*scopes[:depth], parameter]) for depth in range(len(scopes) + 1)]


def configurable_of(name):
    """Returns "Name" of "scope/Name.parameter", or the macro "NAME"."""
    return name.split("/")[-1].rpartition(".")[0] or name


def bound_names(config):
    return {match.group(1) for match in re.finditer(r"^([\w./]+) ?=", config, re.MULTILINE)}


def drop_bindings(config, names):
    """Returns a resolved configuration's text without some bindings; further lines of a long value are indented."""
    kept = re.sub(
        r"^([\w./]+) =.*\n(?:[ \t]+.*\n)*", lambda m: "" if m.group(1) in names else m.group(), config, flags=re.M
    )
    return re.sub(r"# Parameters for .*\n# =+\n\n?(?=#|\Z)", "", kept)
