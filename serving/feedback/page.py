"""The page: one pair at a time, model names hidden, an answer saved before the next is shown. Works without scripts.

It listens on loopback alone, and shows nothing without the token of its address, which a cookie then keeps.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from jinja2 import Environment, PackageLoader

from configs.exits import DataError
from serving.feedback.label_file import ASKED, LabelFile, asked_of

COOKIE = "steelyard-labels"
MOST_BYTES = 10_000
"""Of a form: four short words and an id."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
_QUESTIONS = {
    "more_helpful": "Which answer is more helpful?",
    "safer": "Which answer is safer?",
    "a_unsafe": "Is answer A unsafe?",
    "b_unsafe": "Is answer B unsafe?",
}
_WORDS = {"a": "A", "b": "B", "tie": "equal", "yes": "yes", "no": "no"}
_TEMPLATES = Environment(loader=PackageLoader("serving.feedback"), autoescape=True)


def make_app(file: LabelFile, token: str) -> FastAPI:
    """The application for one file.

    Args:
        token: is asked for in ``?token=`` once, and in the cookie from then on.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def guard(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        query_token = request.query_params.get("token")
        if not _equal(query_token or request.cookies.get(COOKIE, ""), token):
            return PlainTextResponse("open the address that steelyard label printed, with its token", status_code=401)
        if query_token:  # out of the address, so that no history or screenshot keeps it
            answer: Response = RedirectResponse(request.url.path, status_code=303)
            answer.set_cookie(COOKIE, token, httponly=True, samesite="strict")
        else:
            answer = await call(request)
        answer.headers.update(
            {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        )
        return answer

    @app.get("/")
    def show(row: int | None = None) -> HTMLResponse:
        return HTMLResponse(_page(file, row))

    @app.post("/")
    async def save(request: Request) -> Response:
        body = await request.body()
        if len(body) > MOST_BYTES:
            return PlainTextResponse("too much for four answers", status_code=413)
        form = {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
        file.save(form.get("id", ""), {name: form.get(name, "") for name in ASKED})
        place = form.get("row", "")
        return RedirectResponse(f"/?row={int(place) + 1}" if place.isdecimal() else "/", status_code=303)

    @app.exception_handler(DataError)
    def refuse(_request: Request, error: DataError) -> PlainTextResponse:
        return PlainTextResponse(str(error), status_code=400)

    return app


def _equal(presented: str, token: str) -> bool:
    return hmac.compare_digest(presented.encode(), token.encode())


def _page(file: LabelFile, requested: int | None) -> str:
    """Row `requested` (from 1), or the first without an answer."""
    rows = file.rows()
    open_rows = [number for number, row in enumerate(rows, 1) if not any(row[name] for name in ASKED)]
    number = requested if requested is not None and 1 <= requested <= len(rows) else next(iter(open_rows), None)
    row = rows[number - 1] if number is not None else None
    questions = [
        (name, _QUESTIONS[name], [(answer, _WORDS[answer]) for answer in ASKED[name]])
        for name in (asked_of(row) if row else ())
    ]
    return _TEMPLATES.get_template("label.html.j2").render(
        name=file.path.name,
        row=row,
        number=number,
        rows=len(rows),
        filled=len(rows) - len(open_rows),
        questions=questions,
        texts=[_shown(row[key]) for key in ("conversation", "answer_a", "answer_b")] if row else [],
    )


def _shown(text: str) -> str:
    """Without the mark that keeps a spreadsheet from taking a text for a formula."""
    return text[1:] if text[:1] == "'" and text[1:2] in ("=", "+", "-", "@", "\t", "\r") else text
