"""The page's application: its guards, its headers, and what it answers when something is wrong.

Dangers, and what holds them:

- Somebody else's page in the same browser. The server listens on loopback alone, answers only to the names of loopback
  (so that no name that an attacker points at 127.0.0.1 reaches it), may be put into no frame and read by no other
  origin, asks the database nothing for another origin unless somebody follows a link, and has nothing that changes
  anything.
- Hostile names in the database. Templates print through one place (`ops.console.rendering`), and the policy lets no
  script and no style run but those of the folder `static`.
- Something that leaks. Errors are sentences, redacted; a stack trace is never part of an answer.
"""

import secrets
from collections.abc import Mapping

from flask import Flask, Response, make_response, render_template, request
from werkzeug.exceptions import HTTPException

from ops.console.queries import Reader
from ops.console.rendering import add_rendering
from ops.console.views import add_pages
from shared.errors import LockLost, MaintenanceError, Misconfigured, Unavailable
from shared.postgres import UnforeseenDatabaseError
from shared.services import Services

HOST = "127.0.0.1"
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_METHODS = ("GET", "HEAD")
_STATIC_SECONDS = 3600
_HTTP_PORT = 80


def create_app(services: Services, *, port: int, project: str | None = None) -> Flask:
    """The application on one environment's services; `port` is where it is served, `project` Google's, for links."""
    app = Flask(__name__, template_folder="pages")
    app.config["SEND_FILE_MAX_AGE_DEFAULT"] = _STATIC_SECONDS
    app.url_map.strict_slashes = False
    add_rendering(app, services.redact)
    hosts = {f"{name}:{port}" for name in (HOST, "localhost", "[::1]")}
    if port == _HTTP_PORT:
        hosts |= {name.rpartition(":")[0] for name in hosts}

    @app.before_request
    def guard() -> Response | None:
        host = request.environ.get("HTTP_HOST", "")
        if host.lower() not in hosts:
            said = f"This console answers at http://{HOST}:{port} only, and the request named another host.\n"
            return Response(said, 421, mimetype="text/plain")
        if request.method not in _METHODS:
            said = "This console only shows: it takes GET and HEAD.\n"
            return Response(said, 405, {"Allow": ", ".join(_METHODS)}, mimetype="text/plain")
        if _asked_by_another_page():
            said = f"Another page asked for this. Open http://{HOST}:{port} yourself.\n"
            return Response(said, 403, mimetype="text/plain")
        return None

    @app.after_request
    def protect(response: Response) -> Response:
        response.headers.update(HEADERS)
        if request.endpoint != "static" or response.status_code >= 400:
            response.headers["Cache-Control"] = "no-store"
        return response

    @app.context_processor
    def common() -> dict[str, object]:
        return {"made_at": services.clock.now(), "here": request.endpoint, "environment": _environment(services)}

    @app.errorhandler(HTTPException)
    def not_found(error: HTTPException) -> Response:
        # What the pages themselves say; werkzeug's own sentence is about URLs.
        said = error.description if error.description != type(error).description else "There is nothing here."
        what = "There is no such page" if error.code == 404 else error.name
        return _problem(error.code or 500, what, said or "", "The menu above lists what there is.")

    @app.errorhandler(MaintenanceError)
    def wrong(error: MaintenanceError) -> Response:
        said = services.redact(str(error))
        if isinstance(error, Unavailable):
            return _problem(503, "The database does not answer", said, _TRY_AGAIN)
        if isinstance(error, LockLost):
            return _problem(503, "The database is busy", said, _TRY_AGAIN)
        if isinstance(error, Misconfigured):
            return _problem(500, "Something is not set up as it must be", said, _MEND)
        what = "This is a bug" if isinstance(error, UnforeseenDatabaseError) else "The database refused"
        return _problem(500, what, said, _REPORT)

    @app.errorhandler(Exception)
    def unforeseen(error: Exception) -> Response:
        error_id = secrets.token_hex(4)
        what = f"{type(error).__name__} on {request.path}"
        services.log.write("ERROR", f"A page failed ({error_id}): {what}", event="console", error_id=error_id)
        said = f"The page could not be made: {type(error).__name__}, error id {error_id}."
        return _problem(500, "This is a bug", said, _REPORT)

    add_pages(app, Reader(services), project)
    return app


_TRY_AGAIN = "Nothing is lost: load this page again. `python -m ops doctor` says what answers and what does not."
_MEND = (
    "`python -m ops doctor` looks at every setting and right. The console reads its settings once: start it again "
    "after you changed one. What changed in the database shows when you load this page again."
)
_REPORT = "Other pages may work. `python -m ops` has the same figures; report this one."


def _asked_by_another_page() -> bool:
    """Whether a page of another origin asks for itself. Browsers say so; what says nothing is no browser's page."""
    sent = request.headers
    if sent.get("Sec-Fetch-Site", "none") in ("none", "same-origin"):
        return False
    followed = (sent.get("Sec-Fetch-Mode"), sent.get("Sec-Fetch-Dest"))
    return followed != ("navigate", "document")


def _problem(code: int, what: str, said: str, do: str) -> Response:
    answer = make_response(render_template("problem.html", what=what, said=said, do=do), code)
    if code == 503 and request.endpoint == "overview":
        answer.headers["Refresh"] = "30"
    return answer


def _environment(services: Services) -> Mapping[str, object]:
    """Whose page this is, as far as the settings can be read."""
    try:
        settings = services.settings
    except Misconfigured:
        return {"database": None, "report_only": False}
    return {"database": str(settings.database), "report_only": settings.report_only}
