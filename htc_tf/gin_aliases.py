"""Former gin names: configurations written for an earlier release load under the present names.

Names are exchanged in the statements that gin's parser returns, so strings and comments are never touched, and files,
their includes, a run's config.gin, `--gin_param` and the check in `trust` all see the present names only.
"""

import contextlib
import re

from htc_tf.errors import UserError

# {former: present}: names of classes and functions, and of their parameters under the present class name.
ALIASES = {
    "Boundary": "BoundaryLoss",
    "Focal": "FocalLoss",
    "GIoU": "GIoULoss",
    "MultiView": "TestTimeAugmentation",
    "Objective": "HTCLoss",
    "RoIAlign": "RoIPooler",
    "SigmoidFocal": "SigmoidFocalLoss",
    "SmoothL1": "SmoothL1Loss",
    "HTC.roi_align": "HTC.roi_pooler",
    "Input.recolour": "Input.color_jitter",
    "Input.rescale": "Input.resize",
    "MaskHead.convolutions": "MaskHead.num_convs",
    "RoIPooler.finest": "RoIPooler.canonical_scale",
    "SemanticHead.convolutions": "SemanticHead.num_convs",
    "Stage.stds": "Stage.target_stds",
}


class FormerNames:
    """Replaces former names and records each that it meets.

    Attributes:
        met: [name] keys of ALIASES, in the order of the configuration, with repetitions.
    """

    def __init__(self, gin):
        self.registry, self.met = gin.config._REGISTRY, []

    def replace(self, selector, parameter=""):
        """Returns the present (selector, parameter); a former name that the user has registered is kept."""
        name = selector.rpartition(".")[2]
        if name in ALIASES and not self.registry.matching_selectors(selector):
            self.met.append(name)
            name = selector = ALIASES[name]
        if (former := f"{name}.{parameter}") in ALIASES:
            self.met.append(former)
            parameter = ALIASES[former].rpartition(".")[2]
        return selector, parameter

    def describe(self, names):
        """Returns "Objective is now HTCLoss, ..." of keys of ALIASES, each once."""
        return ", ".join(f"{name} is now {ALIASES[name]}" for name in dict.fromkeys(names))


@contextlib.contextmanager
def accept_former_names(gin):
    """Makes gin's parser accept former names inside a "with" block, and yields the block's FormerNames.

    Raises:
        UserError: the block's own, with the former names of what the message mentions.
    """
    from gin import config_parser

    former, parser = FormerNames(gin), config_parser.ConfigParser

    class Delegate(config_parser.ParserDelegate):
        """Replaces names in references, `@scope/Name` and `@scope/Name()`."""

        def __init__(self, inner):
            self.inner = inner

        def configurable_reference(self, scoped_selector, evaluate):
            *scopes, selector = scoped_selector.split("/")
            return self.inner.configurable_reference("/".join([*scopes, former.replace(selector)[0]]), evaluate)

        def macro(self, name):
            return self.inner.macro(name)

    class Parser(parser):
        """Replaces names in bindings, `scope/Name.parameter = value`, and in the heads of blocks, `Name:`."""

        def __init__(self, source, delegate):
            super().__init__(source, Delegate(delegate))

        def parse_statement(self):
            statement = super().parse_statement()
            if isinstance(statement, config_parser.BlockDeclaration):
                return statement._replace(selector=former.replace(statement.selector)[0])
            if isinstance(statement, config_parser.BindingStatement) and statement.arg_name:  # not a macro
                selector, parameter = former.replace(statement.selector, statement.arg_name)
                return statement._replace(selector=selector, arg_name=parameter)
            return statement

    config_parser.ConfigParser = Parser
    try:
        yield former
    except UserError as error:
        named = [name for name in former.met if re.search(rf"\b{re.escape(ALIASES[name])}\b", str(error))]
        raise UserError(f"{error} ({former.describe(named)})" if named else str(error)) from error
    finally:
        config_parser.ConfigParser = parser
