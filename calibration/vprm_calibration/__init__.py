"""Calibration: what goes through a model's Linears, which of them are sensitive, and what quantising did to the scores.

| module        | in                                  | out                                              |
|---------------|-------------------------------------|--------------------------------------------------|
| sequences     | a bundle, rows                      | token sequences with their image embeddings      |
| segments      | a bundle's LLM graph                | one graph a layer, with taps                     |
| collect       | both of the above                   | statistics of every Linear's inputs              |
| sensitivity   | the above, a recipe                 | step-score error of every Linear quantised alone |
| calibrate     | a bundle, rows                      | calibration.safetensors                          |
| quality       | two bundles, rows                   | what changed, in the terms of a PRM              |
| numpy_engine  | a bundle's LLM graph                | the same graph run in NumPy: what it should give |
| outliers      | a checkpoint                        | the same function with outlier channels          |
"""
