"""What a change of precision did to a PRM's judgement.

compare (two scorers over rows) -> figures (errors, F1, choices) -> budget (pass or fail) -> report (JSON, page)
emulated: the reference's LLM graph by ONNX's reference evaluator; outliers, peers, shapes, table: experiments
"""
