"""Names of earlier versions that still work, with a warning, for one version."""

import warnings

from vprm_runtime.options import DEFAULT_OPTIONS, ScoreOptions


def deprecated_options(options: ScoreOptions | None, keywords: ScoreOptions) -> ScoreOptions:
    """The options object of earlier versions if it was given, else the keywords. Raises TypeError on both."""
    if options is None:
        return keywords
    if keywords != DEFAULT_OPTIONS:
        raise TypeError("give max_tiles, max_steps and aggregate as keywords, or an options object, not both")
    warnings.warn(
        "an options object is deprecated here: give max_tiles, max_steps and aggregate as keywords",
        DeprecationWarning,
        stacklevel=3,
    )
    return options
