"""Which of the values are none of a mistake: (targets, arguments, values, why)."""

from __future__ import annotations

from fnmatch import fnmatchcase

NUMBERS = "3 | 2.5 | 1e99 | 2**64 | numpy number"
WORDS = "word | long word | word with a zero byte"
LEGITIMATE: list[tuple[str, str, str, str]] = [
    # whole numbers and flags
    ("*", "seed", "3 | 0", "a seed"),
    (
        "*",
        "steps | checkpoint_every | evaluate_every | patience | batch_size | particles | "
        "projections | batch | draws | chunk | "
        "datasets | starts | climbers | candidates | chains | warmup | thin | max_steps | "
        "max_tree_depth | runs | moves | final | "
        "points | count | simulations | rank | layers | transforms | bins | features | width | "
        "kernel | sets | size | modes | "
        "directions | substeps | elements | unknowns | nodes | freedoms | depth | max_iterations | "
        "sleepers | refits | "
        "reference_draws | refit_wake | nuts_draws | nuts_warmup | quadrature_degree",
        "3",
        "a number of things",
    ),
    (
        "*",
        "max_skipped | nesting | dropped | wake | simulations | refine | context | squarings | "
        "reach | quadrature_degree",
        "3 | 0",
        "a number of things, none among them",
    ),
    ("Reference.select", "index", "-1 | 0", "a data set, the last one too"),
    ("observe | virtual_observables", "event_dim", "0", "every entry is a sample of its own"),
    ("FitOptions | fit(**options)", "warmup", "0", "a share of the steps"),
    (
        "*",
        "progress | prior | classify | adapt | full | energy | corrected | compile | nuts | "
        "quick | resume | overwrite | confirm | raises | "
        "linear | dream_codes | validate_args",
        "True",
        "a flag",
    ),
    # numbers
    (
        "*",
        "learning_rate | clip_norm | widen | scale | noise | df | tail | rtol | atol | length | "
        "standard_deviation | tolerance | rate | period | floor "
        "| r_hat | ess | width",
        NUMBERS + " | 0-dim tensor",
        "a positive number in the user's units",
    ),
    ("FitOptions | fit(**options)", "clip_norm", "inf", "no bound on the gradient"),
    (
        "TruncatedNormal | ODEProblem* | Canonical* | Periodic* | Collocation | KarhunenLoeve | "
        "NewtonOptions | observe(error)",
        "*",
        "Fraction",
        "a number",
    ),
    ("GreyBoxELBO", "predictive | cleansing | sleep | whole_sleep", NUMBERS + " | 0", "a weight"),
    ("Renyi", "alpha", NUMBERS + " | -1 | 0", "any order but 1"),
    ("point_estimate", "beta", NUMBERS + " | 0", "a weight of the prior"),
    (
        "Elliptic* | Collocation | KarhunenLoeve | TruncatedNormal",
        "source | mean | loc",
        NUMBERS + " | -1 | 0 | 0-dim tensor",
        "any number",
    ),
    ("ODEProblem | LinearODE", "t0", "-1 | 0", "a start before the times"),
    ("KarhunenLoeve", "weights", NUMBERS + " | 0-dim tensor", "one weight for all points"),
    # None, where it is the default or says something
    (
        "*",
        "optimizer | checkpoint | held_out | patience | device | clip_norm | batch_size | "
        "latents | refined | given | corrupt | seen | seed | "
        "objective | sleepers | coords | dims | units | datasets | initial | inverse_mass | loc | "
        "tril | candidates | bounds | weights | fit | "
        "executor | simulator | pairs | log_likelihood | log_joint | log_q | quantities | "
        "unconstrained | draws | encoder | whitening | "
        "rank | tail | positions | mask | example | field | unknowns | obs | df | error | "
        "event_dim | t0 | substeps | atol | observation | "
        "event_dims | dtype | residual | squarings | u | modes | cutoff | guide | path | folder | "
        "steps | linear | quadrature_degree | "
        "newton | name | validate_args | options",
        "None",
        "the default",
    ),
    # nothing in them
    (
        "*",
        "latents | given | coords | dims | units | quantities | facts | settings | stats | draws | "
        "summary | options | event_dims | "
        "example | priors | pvalues",
        "{}",
        "nothing to say",
    ),
    ("laplace* | nuts | pcn", "data", "{}", "without data the posterior is the prior, the data's site in it"),
    (
        "*",
        "positive | hidden | skip | levels | dims | likelihoods | residual_shape",
        "[] | () | empty tensor",
        "none of them",
    ),
    ("checks", "models", "[] | ()", "no models"),
    ("Animal", "quantities", "{}", "site names stand for themselves"),
    # words and mappings that are stored or looked up later
    ("FitOptions | fit(**options)", "facts", "{'z': 1} | {'y': word}", "what the checkpoint shall hold"),
    (
        "Reference | weights.save | Recipe",
        "settings | facts | options",
        "{'z': 1} | {'y': word}",
        "what the file shall hold, or what the family is given",
    ),
    ("Simulator", "given", "{'z': 1} | {'y': word}", "held against the model by fit"),
    ("FitOptions", "held_out", "{'z': 1} | {'y': word}", "held against the model by fit"),
    ("holm", "pvalues", "{'z': 1}", "a p-value of one"),
    ("ODEProblem", "event_dims", "{'z': 1}", "an unknown that is a vector"),
    ("posterior", "units", "{'y': word}", "a unit of a site"),
    ("Quantity | Animal", "units | priors", "{'y': word}", "words for a name"),
    ("Quantity | Animal", "dims | likelihoods", "words", "names"),
    (
        "Quantity | Animal | Reference",
        "label | unit | title | physics | source | method",
        WORDS + " | empty word",
        "words",
    ),
    ("Animal", "name", "word | long word", "a name"),
    ("Recipe", "family | encoder", WORDS, "looked up when the guide is built"),
    (
        "ResidualGuide | PreconditionedGuide | observe | virtual_observables",
        "state | unknowns | name",
        WORDS,
        "a site's name",
    ),
    ("FitOptions | fit(**options)", "checkpoint", "word | missing path", "a file to be made"),
    ("FitOptions", "checkpoint", WORDS, "tried by fit"),
    ("weights.save", "folder", "empty word | folder", "the folder at hand"),
    # functions, called later
    ("FitOptions | fit(**options)", "schedule | optimizer", "function | class", "called by fit"),
    (
        "Simulator | simulated_once | sample | ODEProblem | LinearODE | GreyBoxODE | Elliptic1D | "
        "Trunk | ResidualGuide | PreconditionedGuide",
        "corrupt | guide | rhs | observation | generator | physics | dynamics | log_conductivity | "
        "cutoff | guide_z | field",
        "function",
        "called later",
    ),
    ("Animal", "model | data", "function | class", "called when the animal is built"),
    (
        "amortize",
        "family",
        "function | class",
        "a function (features, context) -> module is tried by the guide's first draw",
    ),
    # arrays of the right shape
    ("ODEProblem | LinearODE* | GreyBoxODE | ecdf", "times | points", "range", "increasing numbers"),
    (
        "*",
        "pits | sensors | boundary | lengths | loc | flat | scale | points | x",
        "int tensor | half tensor",
        "numbers",
    ),
    ("uniformity | effect | ecdf | interval_coverage", "pits | points", "bool tensor", "zeros and ones"),
    (
        "*.solve | *.observe | *.residual | *.logdet | Collocation.* | KarhunenLoeve() | unit_cube_cutoff | "
        "UnconstrainedSites.constrain",
        "z | u | c | x | residual | flat",
        "nan tensor | inf tensor",
        "what comes out is not finite and has no weight",
    ),
    (
        "*ODE*.observe",
        "u",
        "empty tensor | 0-dim tensor | wrong shape | half tensor",
        "the state itself is what is seen",
    ),
    ("Galerkin.*", "u | residual", "half tensor", "numbers"),
    (
        "ODEProblem.solve(rate)",
        "rate | initial_state",
        "empty tensor | 0-dim tensor | wrong shape | half tensor",
        "a batch of them",
    ),
    (
        "KarhunenLoeve | unit_cube_cutoff | Collocation.*",
        "points | x",
        "wrong shape | empty tensor",
        "seven points in five dimensions, or none",
    ),
    ("TruncatedNormal", "loc | scale", "inf tensor", "refused where validation is on"),
]


def why(target: str, argument: str, value: str) -> str:
    """Return why a target takes a value, or "" where it must not."""
    for targets, arguments, values, reason in LEGITIMATE:
        if (
            any(fnmatchcase(target, pattern) for pattern in targets.split(" | "))
            and any(fnmatchcase(argument, pattern) for pattern in arguments.split(" | "))
            and value in values.split(" | ")
        ):
            return reason
    return ""
