"""How good a PRM is: VisualProcessBench's step verdicts, and the choice of the best of N responses.

| module        | in                                   | out                                                   |
|---------------|--------------------------------------|-------------------------------------------------------|
| scored        | rows' file, a scorer                 | rows with their scores and labels, or why left out    |
| metrics       | labels and scores as arrays          | counts, F1, AUC, first errors, intervals, calibration |
| processbench  | scored rows                          | the benchmark's document                              |
| answers       | a response's text                    | its final answer; whether two answers are the same    |
| best_of_n     | rows scored stepwise and as a whole  | the best-of-N document                                |
| process_page  | the benchmark's document, its rows   | the page that `vprm_report` draws          |
| choice_page   | the best-of-N document, its rows     | the same                                              |
| demo_quality  | a scorer                             | the demo PRM's figures, with images and without       |
| command       | arguments                            | `vprm eval`                                           |
"""
