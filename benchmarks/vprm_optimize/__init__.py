"""`vprm optimize`: one command from a checkpoint to the best bundle for a machine, with the evidence.

| module    | in                                   | out                                                          |
|-----------|--------------------------------------|--------------------------------------------------------------|
| targets   | `--for`, this machine                | what the bundle is made for, and what of it can be run here  |
| recipes   | a target, a goal                     | recipes to try, in groups from the fastest to the mildest    |
| selection | files of rows                        | rows to calibrate on, rows to judge on; no question in both  |
| estimate  | a model, rows, recipes, this machine | seconds, bytes of disk and memory of every stage             |
| plan      | all of the above                     | the plan that is printed before anything starts              |
| reference | a floating-point bundle, rows        | step scores, computed with one layer in memory               |
| child     | one stage's job                      | its result, from a process of its own                        |
| taking_up | a request, an interrupted run        | what was asked for then and now, the stored plan, a lock     |
| run       | a plan                               | the bundle; every stage goes on after an interruption        |
| decide    | accuracy and speed of recipes        | which one is chosen, and why                                 |
| split     | a report                             | its rows as files, to do the stages by hand                  |
| report    | all of it                            | report.json, report.html, the summary in the manifest        |

No stage holds a whole floating-point model in memory, and none needs PyTorch.
"""
