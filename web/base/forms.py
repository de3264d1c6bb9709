"""Shows a form again that could not be taken: with what was typed, and beside it what is wrong.

A view that takes a form names the page that shows it: ``@form_on("account.show")``. Where the view raises an
error that the person can do something about, that page is the answer, with the error's status.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from html import escape
from html.parser import HTMLParser
from typing import Any, TypeVar

from flask import Response, current_app, g, render_template, request
from werkzeug.datastructures import MultiDict
from werkzeug.routing import Rule

from store.base.errors import ServiceError
from web.base.errors import with_headers

View = TypeVar("View", bound=Callable[..., Any])

#: What nobody wants sent back to a page, and what a page gives anew.
_NEVER_FILLED = frozenset({"password", "hidden", "file", "submit", "button", "image", "reset"})
#: What the person cannot mend in the form: nothing is there, or it is not theirs, or the server is at fault.
_NOT_THE_FORM = frozenset({404, 410})
_TROUBLE = "form-trouble"


def form_on(
    page: str, /, *, at: Callable[[], Mapping[str, Any]] = dict, **fields: str
) -> Callable[[View], View]:
    """Mark a view that takes a form with the page that shows it.

    Parameters
    ----------
    page
        The endpoint. It gets those of the view's arguments that its address has.
    at
        Returns arguments that it takes from the form.
    fields
        By member of a document, the form's field that says it, where the two differ.
    """

    def mark(view: View) -> View:
        @wraps(view)
        def taken(**named: Any) -> Any:
            try:
                return view(**named)
            except ServiceError as error:
                if error.status >= 500 or error.status in _NOT_THE_FORM:
                    raise
                return _shown_again(page, {**named, **_read(at, error)}, error, fields)

        taken.form_page = page  # type: ignore[attr-defined]
        return taken  # type: ignore[return-value]

    return mark


def _read(at: Callable[[], Mapping[str, Any]], error: ServiceError) -> Mapping[str, Any]:
    try:
        return at()
    except (ValueError, ServiceError):  # what no page of ours sends
        raise error from None


def _shown_again(
    page: str, named: Mapping[str, Any], error: ServiceError, names: Mapping[str, str]
) -> Response:
    rule: Rule = next(current_app.url_map.iter_rules(page))
    try:
        view = current_app.view_functions[page]
        shown = current_app.make_response(view(**{name: named[name] for name in rule.arguments}))
    except ServiceError:  # the page cannot be shown either
        raise error from None
    if shown.status_code != 200:
        raise error
    typed: MultiDict[str, str] = g.get("typed_fields") or request.form
    wrong = {names.get(member, member): what for member, what in getattr(error, "errors", ()) if member}
    if not wrong and error.about:
        wrong = {error.about: error.title}
    alert = render_template("form_trouble.html", error=error, id=_TROUBLE, wrong=wrong)
    shown.set_data(fill(shown.get_data(as_text=True), request.path, typed, wrong, alert))
    shown.status_code = error.status
    return with_headers(shown, error)


def fill(page: str, action: str, typed: MultiDict[str, str], wrong: Mapping[str, str], alert: str) -> str:
    """Return a page with one of its forms filled in.

    Parameters
    ----------
    action
        The path to which the form is sent. Of several such forms the one is filled whose hidden fields were
        sent. Where the page has none any more, only `alert` is put at its beginning.
    typed
        By field; passwords and files stay empty.
    wrong
        By field, what is wrong: those are marked, and described by `alert`.
    alert
        HTML that says what is wrong.
    """
    parsed = _Page(page, action)
    form = parsed.choose(typed)
    edits: list[tuple[int, int, str]] = []
    if form is None:
        edits.append((parsed.main, parsed.main, alert))
    else:
        edits.append((form.begin, form.begin, alert))
        edits += [(at, at, " open") for at in form.closed]
        first = True
        for control in form.controls:
            edits += control.filled(typed, bad=control.name in wrong, focus=control.name in wrong and first)
            first = first and control.name not in wrong
    for begin, end, text in sorted(edits, reverse=True):
        page = page[:begin] + text + page[end:]
    return page


class _Control:
    """An input, a select or a textarea: where its tags stand."""

    def __init__(self, tag: str, attributes: dict[str, str | None], begin: int, text: str) -> None:
        self.tag, self.attributes, self.begin, self.text = tag, attributes, begin, text
        self.name = attributes.get("name") or ""
        self.kind = (attributes.get("type") or "text").lower() if tag == "input" else tag
        self.content = (begin + len(text), begin + len(text))
        self.options: list[tuple[int, str, dict[str, str | None], str]] = []

    def filled(self, typed: MultiDict[str, str], *, bad: bool, focus: bool) -> list[tuple[int, int, str]]:
        """Return what is put into the page in place of what: begin, end, text."""
        said, attributes = typed.getlist(self.name), dict(self.attributes)
        edits = []
        if self.kind in {"checkbox", "radio"}:
            attributes.pop("checked", None)
            if (attributes.get("value") or "on") in said:
                attributes["checked"] = None
        elif self.kind == "textarea" and said:
            edits.append((*self.content, escape(said[0], quote=False)))
        elif self.kind == "select" and said:
            for at, text, option, words in self.options:
                option.pop("selected", None)
                if (option.get("value") or words) in said:
                    option["selected"] = None
                edits.append((at, at + len(text), _tag("option", option)))
        elif self.kind not in _NEVER_FILLED and said:
            attributes["value"] = said[0]
        if bad and self.kind != "hidden":
            described = " ".join(filter(None, (attributes.get("aria-describedby"), _TROUBLE)))
            attributes |= {"aria-invalid": "true", "aria-describedby": described}
            if focus:
                attributes["autofocus"] = None
        if attributes != self.attributes:
            edits.append((self.begin, self.begin + len(self.text), _tag(self.tag, attributes)))
        return edits


def _tag(name: str, attributes: Mapping[str, str | None]) -> str:
    said = (key if value is None else f'{key}="{escape(value)}"' for key, value in attributes.items())
    return f"<{' '.join((name, *said))}>"


class _Form:
    def __init__(self, key: str, begin: int, closed: list[int]) -> None:
        self.key, self.begin, self.closed = key, begin, closed
        self.controls: list[_Control] = []


class _Page(HTMLParser):
    """Finds the forms of a page that are sent to one path, and their fields."""

    def __init__(self, page: str, action: str) -> None:
        super().__init__(convert_charrefs=True)
        self._lines = [0, *(at + 1 for at, sign in enumerate(page) if sign == "\n")]
        self._action = action
        self._forms: list[_Form] = []
        self._inside: _Form | None = None
        self._details: list[
            int | None
        ] = []  # of each that is open here: where to write that it is, if it is not
        self._control: _Control | None = None
        self.main = 0
        self.feed(page)

    def choose(self, typed: MultiDict[str, str]) -> _Form | None:
        """Return the form whose hidden fields were sent."""

        def fits(form: _Form) -> bool:
            return all(
                control.attributes.get("value") in typed.getlist(control.name)
                for control in form.controls
                if control.kind == "hidden" and control.name != "csrf"
            )

        return next(filter(fits, self._forms), self._forms[0] if self._forms else None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note forms, what holds them, and fields."""
        attributes, text = dict(attrs), self.get_starttag_text() or ""
        line, column = self.getpos()
        begin = self._lines[line - 1] + column
        end = begin + len(text)
        if tag == "main":
            self.main = end
        elif tag == "details":
            self._details.append(None if "open" in attributes else end - 1)
        elif tag == "form":
            path = (attributes.get("action") or "").split("?")[0]
            if attributes.get("method") == "post" and path == self._action:
                closed = [at for at in self._details if at is not None]
                self._inside = _Form(attributes.get("id") or "", end, closed)
                self._forms.append(self._inside)
        elif tag in {"input", "select", "textarea"}:
            key = attributes.get("form")
            form = next((form for form in self._forms if form.key == key), None) if key else self._inside
            self._control = _Control(tag, attributes, begin, text)
            if form is not None:
                form.controls.append(self._control)
        elif tag == "option" and self._control is not None:
            self._control.options.append((begin, text, attributes, ""))

    def handle_data(self, data: str) -> None:
        """Note what an option without a value says."""
        if self._control is not None and self._control.options and self.lasttag == "option":
            at, text, attributes, words = self._control.options[-1]
            if not words and "value" not in attributes:
                self._control.options[-1] = (at, text, attributes, data.strip())

    def handle_endtag(self, tag: str) -> None:
        """Note where forms and fields end."""
        if tag == "form":
            self._inside = None
        elif tag == "details" and self._details:
            self._details.pop()
        elif tag == "textarea" and self._control is not None:
            line, column = self.getpos()
            self._control.content = (self._control.content[0], self._lines[line - 1] + column)
