"""Other servers' shapes: OpenRLHF's remote reward (/get_reward) and vLLM's pooling of messages (/pooling).

Sources: OpenRLHF @3c3be62, openrlhf/utils/agent.py (requests with one item, or with empty lists); vLLM's online
pooling API, task token_classify. An item that cannot be scored fails the request: a reward is never made up.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Coroutine, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vprm_runtime.datasets.row_json import fault_of
from vprm_runtime.datasets.row_keys import CONTENT, LABELS
from vprm_runtime.errors import InputError, quoted
from vprm_runtime.execution.aggregate import aggregate_scores
from vprm_runtime.prompt.chat_text import question_of_prompt, without_end_marker
from vprm_runtime.strict_json import RepeatedKeyError, unique_keys
from vprm_serving.admission import Place
from vprm_serving.http import call_of, read_json, service_of, unless_gone
from vprm_serving.service import Answer

_NOT_OF_A_LABEL = (CONTENT | LABELS.keys() | {"id"}) - {"question"}
"""What a label may hold and the query has: the response is the query's. All else is read as in any row, or refused."""


async def get_reward(request: Request, place: Place) -> Response:
    """Rewards of `{"query": [...], "prompts": [...], "labels": [...]}`: the response scores, all or none."""
    call = call_of(request)
    body = await read_json(request, place)
    if not isinstance(body, Mapping):
        raise InputError("the body is an object with lists query, prompts and labels", code="bad_json")
    queries, prompts = body.get("query"), body.get("prompts")
    if not isinstance(queries, list) or not isinstance(prompts, list):
        raise InputError("query and prompts are lists, of equal length", code="bad_json")
    labels = [None] * len(queries) if body.get("labels") is None else body["labels"]
    if not isinstance(labels, list):
        raise InputError("labels is a list, one for each query, or left out", code="bad_json")
    if not len(queries) == len(prompts) == len(labels):
        raise InputError(f"{len(queries)} query, {len(prompts)} prompts, {len(labels)} labels: give as many of each")
    service = service_of(request)
    if len(queries) > (most := service.settings.limits.max_responses):
        raise InputError(f"{len(queries)} query, at most {most} are taken: send more requests", code="too_large")
    rows = [reward_row(*item) for item in zip(queries, prompts, labels, strict=True)]
    answers = await unless_gone(request, _all_or_none(*(service.score(row, call, place) for row in rows)))
    scores = [_only_score(answer, number) for number, answer in enumerate(answers)]
    steps = [answer.result[0].step_scores.tolist() for answer in answers]
    logs = {
        "vprm_steps": [len(found) for found in steps],
        "vprm_min": [min(found) for found in steps],
        "vprm_mean": [aggregate_scores(found, "mean") for found in steps],
        "vprm_last": [found[-1] for found in steps],
    }
    return JSONResponse({"rewards": scores, "scores": scores, "extra_logs": logs})


async def _all_or_none(*works: Coroutine[Any, Any, Answer]) -> list[Answer]:
    """The results of all; if one raises, the others are over before it is raised: nobody would wait for them."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def reward_row(query: object, prompt: object, label: object) -> dict[str, Any]:
    """The row of one item. The label may be JSON with the question and the image, which the query does not have.

    The response is what follows the prompt in the query, without the chat template's end marker. Raises InputError if
    that cannot be told.
    """
    if not isinstance(query, str) or not isinstance(prompt, str):
        raise InputError("query and prompts are lists of texts")
    if not query.startswith(prompt):
        raise InputError("a query does not begin with its prompt: what the response is cannot be told")
    response, given = without_end_marker(query[len(prompt) :]), _label(label)
    if "question" not in given:
        given = {"question": question_of_prompt(prompt, "the label, as JSON"), **given}
    return {**given, "responses": [response]}


def _label(label: object) -> dict[str, Any]:
    """What a label says about the row: JSON with keys of a row, such as question and image; any other is the answer."""
    if isinstance(label, str) and label.lstrip().startswith("{"):
        try:
            text, label = label.encode(), json.loads(label, object_pairs_hook=unique_keys)
        except RepeatedKeyError as error:
            raise InputError(f"a label is not taken: {error}") from error
        except (ValueError, RecursionError):
            return {}
        if (fault := fault_of(label, text)) is not None:
            raise InputError(f"a label {fault}")
    if not isinstance(label, Mapping):
        return {}
    return {str(key): value for key, value in label.items() if key not in _NOT_OF_A_LABEL}


async def pooling(request: Request, place: Place) -> Response:
    """Step scores of `{"messages": [user, assistant]}` as [[p-, p+], ...]; `input` is refused."""
    call = call_of(request)
    body = await read_json(request, place)
    if not isinstance(body, Mapping) or "messages" not in body:
        raise InputError(
            "give messages: a user message with the question and its images, and an assistant message with the "
            "response; plain input has no question to score",
            code="bad_json",
        )
    if body.get("task") not in (None, "token_classify"):
        raise InputError(f"task is token_classify, got {quoted(body['task'])}", code="bad_json")
    row = messages_row(body["messages"])
    service = service_of(request)
    answer = await unless_gone(request, service.score(row, call, place))
    _only_score(answer, 0)
    steps = [[1.0 - score, score] for score in answer.result[0].step_scores.tolist()]
    tokens = len(answer.work.responses[0].prompt.ids) if answer.work.responses[0].prompt else 0
    return JSONResponse(
        {
            "id": f"pool-{secrets.token_hex(8)}",
            "object": "list",
            "created": int(time.time()),
            "model": service.model.manifest.model.name,
            "data": [{"index": 0, "object": "pooling", "data": steps}],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
        }
    )


def messages_row(messages: object) -> dict[str, Any]:
    """The row of a user message and an assistant message.

    The assistant's text is split into steps as any response is; a list of text parts is taken as the steps. Images are
    data URLs or blake2b:DIGEST. Raises InputError for anything else: what a system message or more turns would mean
    for the score is not defined.
    """
    roles = [m.get("role") if isinstance(m, Mapping) else None for m in messages] if isinstance(messages, list) else []
    if roles != ["user", "assistant"]:
        raise InputError(f"messages are one of user and one of assistant, got {quoted(roles)}", code="bad_json")
    question, images = [], []
    for part in _parts(messages[0]):  # type: ignore[index]
        if part.get("type") == "image_url":
            images.append(_image_url(part))
        else:
            question.append(_text(part))
    content = messages[1].get("content")  # type: ignore[index]
    steps = content if isinstance(content, str) else [_text(part) for part in _parts(messages[1])]  # type: ignore[index]
    return {"question": "\n".join(question), "image": images, "responses": [steps]}


def _image_url(part: Mapping[str, Any]) -> str:
    """What a part says about its image. Without it the question would be scored from its text alone: InputError."""
    url = part.get("image_url")
    url = url.get("url") if isinstance(url, Mapping) else url
    if not isinstance(url, str) or not url:
        raise InputError('an image_url has no image: give {"url": "data:image/png;base64,..."}, or a blake2b:DIGEST')
    return url


def _text(part: Mapping[str, Any]) -> str:
    if part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise InputError(
            "a part of a message is text, or in the user's image_url, and has what its type says; "
            f"got {quoted(part.get('type'))}"
        )
    text: str = part["text"]
    return text


def _parts(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        return content
    raise InputError("the content of a message is text, or a list of parts", code="bad_json")


def _only_score(answer: Answer, number: int) -> float:
    """The score of a row with one response. Raises InputError if it has none."""
    candidate = answer.result[0]
    if candidate.score is None:
        raise InputError(f"item {number} cannot be scored: {candidate.error}", code=candidate.code)
    return candidate.score
