"""Bindings of a configuration after everything is built: which ones an override replaced, and which nothing used."""

import re

from htc_tf.errors import UserError, listed


def superseded(resolved, operative, macros, own_names, replaced):
    """Returns the bindings that an override replaced.

    They are those of configurables that nothing refers to any more, such as ResNet.depth once the backbone is a Swin,
    and macros that the override does without, such as WARMUP_STEPS once it binds `StepSchedule.warmup_steps` itself.

    Args:
        resolved: str, gin's whole configuration.
        operative: str, the part of it that has reached something, after everything is built.
        macros: Names of the macros that every experiment config defines.
        own_names: {name} that nothing later can have replaced: those of the flags, and those that a file binds itself,
            not its includes, although neither it nor what precedes it refers to them.
        replaced: {name} of the macros behind settings that the records have replaced.
    Raises:
        UserError: Another binding has not reached anything that was built.
    """
    unused = bound_names(resolved) - used_names(resolved, operative)
    left, count = (unused & set(macros)) - own_names | unused & replaced, -1
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


def used_names(resolved, operative):
    """Returns the bindings that have reached something that was built, or will reach something called later."""
    bound, called = bound_names(resolved), bound_names(operative)
    # A reference without parentheses, such as an augmentation, is called only later, in the scope of the reference.
    for reference in re.findall(r"@((?:\w+/)*[\w.]+)(?![\w./]*\()", operative):
        configurable = reference.split("/")[-1]
        called |= {f"{reference}.{name.rpartition('.')[2]}" for name in bound if configurable_of(name) == configurable}
    used = set()
    for name in called:
        # A call in scope a/b takes bindings without a scope, in a, and in a/b.
        *scopes, parameter = name.split("/")
        used |= {"/".join([*scopes[:depth], parameter]) for depth in range(len(scopes) + 1)}
    return used


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
