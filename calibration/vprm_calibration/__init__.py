"""Calibration: what goes through a model's Linears, and which of them are sensitive to being quantised.

| module        | in                                  | out                                              |
|---------------|-------------------------------------|--------------------------------------------------|
| sequences     | a bundle, rows                      | token sequences with their image embeddings      |
| layer_graphs  | a bundle's LLM graph                | one graph per layer, with taps                   |
| statistics    | both of the above                   | statistics of every Linear's inputs              |
| sensitivity   | the above, a recipe                 | step-score error of every Linear quantised alone |
| calibrate     | a bundle, rows                      | calibration.safetensors                          |
"""
