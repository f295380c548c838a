"""One-line plugs of step scores into training and evaluation libraries; docs/training.md has a page for each.

| module            | library           | what it gives                                                 |
|-------------------|-------------------|---------------------------------------------------------------|
| trl               | TRL               | `reward_function(target)` for `reward_funcs`                  |
| verl              | verl              | `compute_score`, `compute_scores` (batch reward manager)      |
| easyr1            | EasyR1            | `compute_score`                                               |
| openrlhf          | OpenRLHF          | `reward_func`                                                 |
| slime             | slime             | `reward_func` (async)                                         |
| ms_swift          | ms-swift          | `prm_class(target)` for `prms`                                |
| search_and_learn  | search-and-learn  | `StepPRM(target).score`                                       |
| vlmevalkit        | VLMEvalKit        | `RewardModel(target).select_best_response`                    |

A target is a bundle directory, or the URL of a `vprm serve`. Functions that a library loads by name take it from the
environment variable VPRM_TARGET. What cannot be scored becomes the library's own "no reward", never a number.
"""
