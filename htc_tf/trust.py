"""Whether a run's configuration may be parsed: what would run code, or never end, is refused.

A run may come from elsewhere, and gin can import and call anything.
"""

import functools
import sys
from collections import Counter, defaultdict

from htc_tf.errors import UserError

# Parts and macros that a run's configuration may build, each counted as often as it is used. The largest of htc_tf's
# own have some fifty; lists of lists of macros, forty deep, would never end.
MOST_PARTS = 10_000


def imported_modules(gin, paths, params):
    """The modules that the user's own gin files and bindings import, includes followed; leaves gin's state empty."""

    def collect(includes):
        for parsed in includes:
            yield from parsed.imports
            yield from collect(parsed.includes)

    # Unknown parts are skipped: a run's configuration, not parsed yet, may bring them. Mistakes are found later.
    includes, imports = gin.parse_config([*(f"include {str(path)!r}" for path in paths), *params], skip_unknown=True)
    gin.clear_config()
    return {*imports, *collect(includes)}


def check_trust(text, run, modules=()):
    """Refuses a run's configuration that could run code other than htc_tf's own, or that never ends.

    gin's own parser reads the text, statement by statement, and executes nothing. The text may hold bindings of, and
    references to, parts that htc_tf or one of `modules` has registered.

    Args:
        text: of the run's config.gin, exactly as it is parsed afterwards.
        run: the Run.
        modules: names of modules that the user's own gin files import.
    Raises:
        UserError: the configuration imports another module, includes a file, names another part, or builds more than
            `MOST_PARTS`.
    """
    from gin import config, config_parser

    known = ("htc_tf", "gin.config", *modules)
    users = defaultdict(Counter)  # {part or macro: how often each other stands in its bindings}
    named = []  # of the statement that is being parsed

    def refuse(what):
        raise UserError(
            f"{run.config} {what}, which can run code. If you trust whoever made the run, add --trust_config "
            "(from Python: trust_config=True), or name the module yourself, with a --gin_file that imports it"
        )

    class Delegate(config.ParserDelegate):
        """Sees every reference, wherever in a value it stands; also in the keys of a dictionary."""

        def configurable_reference(self, name, evaluate):
            reference = super().configurable_reference(name, evaluate)
            module = getattr(reference.configurable.wrapped, "__module__", None) or "an unknown module"
            if not any(module == own or module.startswith(f"{own}.") for own in known):
                refuse(f"names {reference}, a part of {module}")
            named.append(_last(name))
            return reference

        def macro(self, name):
            named.extend((f"%{_last(name)}", "macro"))  # bound as `NAME = ...`, or as `NAME/macro.value = ...`
            return super().macro(name)

    delegate = Delegate()
    for statement in config_parser.ConfigParser(text, delegate):
        if isinstance(statement, config_parser.IncludeStatement):
            refuse(f"includes {statement.filename!r}")
        elif isinstance(statement, config_parser.ImportStatement):
            # Dynamic registration is refused always: it reaches whatever the named modules import themselves.
            ours = statement.module.startswith("htc_tf.") and statement.module in sys.modules
            if not (ours or statement.module in modules) or statement.module.startswith("__gin__"):
                refuse(f"has the line {statement.format()!r}")
            __import__(statement.module)  # registers the parts that later lines name
        elif isinstance(statement, config_parser.BlockDeclaration):
            delegate.configurable_reference(statement.selector, False)
        else:
            name = _last(statement.selector)
            users[name if statement.arg_name else f"%{name}"].update(named)
            if statement.arg_name:
                delegate.configurable_reference(statement.selector, False)
        named.clear()

    @functools.cache
    def count(name):
        return 1 + sum(times * count(used) for used, times in users[name].items())

    try:
        built = max(map(count, list(users)), default=0)
    except RecursionError:
        raise UserError(f"{run.config} has a part or a macro within itself") from None
    if built > MOST_PARTS:
        raise UserError(f"{run.config} builds {built:,} parts, more than {MOST_PARTS:,}")


def _last(selector):
    """A part's or a macro's own name, whatever its module and scope: bindings of all scopes count together."""
    return selector.replace("/", ".").rpartition(".")[2]
