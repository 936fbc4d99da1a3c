"""The arguments of operators, sensors and the notifier, on their way through Airflow's templates."""

from __future__ import annotations

import logging
from collections import ChainMap
from collections.abc import Collection, Iterable, MutableMapping, Sequence, Sized
from typing import Any

import jinja2

from airflow_provider_rtisms.api.values.secret import Secret, reveal
from airflow_provider_rtisms.compat import XComArg

log = logging.getLogger(__name__)


class RendersAsWritten:
    """
    Mixin of classes with template fields: what is written is sent, however the DAG renders.

    In a DAG with ``render_template_as_native_obj=True``, Airflow makes a number of the text ``007``. Here, a text stays
    as it is written. A template that is one expression, such as ``{{ ti.xcom_pull('people') }}``, still gives a list
    there.

    The name of a template file is a field's whole value, see :func:`is_template_file`. No value in a list or in a dict
    is one.
    """

    template_fields: Collection[str]
    template_ext: Sequence[str]
    #: The list, dict or other value whose strings are being rendered; None while that is the value of a field.
    _collection: Any = None

    def resolve_template_files(self) -> None:
        """Read the template files. Airflow calls this when it has parsed the DAG."""
        for name in self.template_fields:
            value = getattr(self, name, None)
            if not is_template_file(value, self.template_ext):
                continue
            environment: Any = self.get_template_env()  # type: ignore[attr-defined]
            try:
                source = environment.loader.get_source(environment, value)[0]
            except Exception as error:  # the DAG is parsed anyway, and the task fails
                log.warning("The template file of the field %s cannot be read: %s", name, type(error).__name__)
                source = value  # assigned again, so that Airflow's log of the failure shows no confidential field
            setattr(self, name, source)
        self.prepare_template()  # type: ignore[attr-defined]

    def render_template(
        self, content: Any, context: Any, jinja_env: jinja2.Environment | None = None, seen_oids: set[int] | None = None
    ) -> Any:
        """Render a value. Airflow calls this for each template field and, through itself, for each value in it."""
        environment = jinja_env or self.get_template_env()  # type: ignore[attr-defined]
        if isinstance(content, str) and id(content) not in (seen_oids or ()):
            return self._render_string(content, context, environment)
        if isinstance(content, Secret):  # not through Airflow, whose log of a failure would show the value
            return type(content)(self.render_template(reveal(content), context, environment, seen_oids))
        is_outermost = self._collection is None
        if is_outermost:
            self._collection = content
        try:
            return super().render_template(content, context, environment, seen_oids)  # type: ignore[misc]
        finally:
            if is_outermost:
                self._collection = None

    def _render_string(self, content: str, context: Any, environment: jinja2.Environment) -> Any:
        if self._collection is None and is_template_file(content, self.template_ext):
            template = _get_template(environment, content)
        else:
            template = environment.from_string(content)
        value = _value_of(template, context)
        parameters = reveal(getattr(self, "parameters", None))
        if parameters is not None and parameters is self._collection:  # the driver of a database takes any type
            return value
        return value if value is None or isinstance(value, Iterable) else str(value)


class Redacted(Secret[Any]):
    """
    A value that Airflow stores and shows as a description only.

    Airflow keeps rendered template fields in its database and shows them to everyone who may see the task. A value that
    is neither JSON nor a collection is kept as ``str(value)``, on every version.

    :param value: what to protect; a template inside it is rendered.
    """

    __slots__ = ()

    def __str__(self) -> str:
        """Return how many characters or values it has."""
        if isinstance(self._value, str):
            return f"redacted: {len(self._value)} characters"
        return f"redacted: {len(self._value)} values" if isinstance(self._value, Sized) else "redacted"

    __repr__ = __str__


class _TemplateField:
    """
    A template field of an operator. The value stands in the operator's ``__dict__``, so reading it costs nothing.

    A set is kept in a fixed order, since a DAG is serialized with each parsing. What Airflow assigns to a confidential
    field when it renders it is redacted, in mapped tasks too. The output of another task is left as it is, so that
    Airflow finds it and lets this task wait for the other.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __set__(self, task: Any, value: Any) -> None:
        value = in_fixed_order(value)
        is_confidential = self._name in task.redacted_fields and value is not None and task.__dict__.get("_is_made")
        if is_confidential and not any(XComArg.iter_xcom_references(value)):
            value = Redacted(value)
        task.__dict__[self._name] = value


class TemplateFields(RendersAsWritten):
    """
    Mixin of operators and sensors.

    An operator with confidential fields sets ``_is_made`` once its own ``__init__`` has assigned its fields.
    """

    #: Template fields whose rendered value Airflow must not store or show.
    redacted_fields: Sequence[str] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let the class keep its template fields as :class:`_TemplateField` says."""
        super().__init_subclass__(**kwargs)
        for name in getattr(cls, "template_fields", ()):
            if not hasattr(cls, name):
                setattr(cls, name, _TemplateField(name))

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Return the operator with some arguments, to be mapped over others."""
        return super().partial(**{name: in_fixed_order(value) for name, value in kwargs.items()})  # type: ignore[misc]


def in_fixed_order(value: Any) -> Any:
    """
    Return the items of a set in an order that is the same in each process, also of a set in a list, a tuple or a dict.
    """
    if isinstance(value, set | frozenset):
        return sorted(map(in_fixed_order, value), key=lambda item: (type(item).__name__, str(item)))
    if type(value) not in (list, tuple, dict):
        return value
    items = list(value.values() if isinstance(value, dict) else value)
    ordered = [in_fixed_order(item) for item in items]
    if all(one is another for one, another in zip(items, ordered, strict=True)):
        return value
    return dict(zip(value, ordered, strict=True)) if isinstance(value, dict) else type(value)(ordered)


def is_template_file(value: Any, extensions: Iterable[str]) -> bool:
    """Return whether the value of a template field is the name of a template file."""
    if not isinstance(value, str) or not value.endswith(tuple(extensions)) or "://" in value:
        return False
    return not any(character.isspace() or character in "{}" for character in value)


def _get_template(environment: jinja2.Environment, name: str) -> jinja2.Template:
    """Return the template in a file."""
    from airflow_provider_rtisms.compat import AirflowFailException

    try:
        return environment.get_template(name)
    except jinja2.TemplateNotFound:
        extension = name.rpartition(".")[2]
        raise AirflowFailException(
            f"A template field is the name of a .{extension} file that is neither in the folder of the DAG nor in its "
            "template_searchpath. Put the file there. If the field is a text, let it end in another way or have a "
            "space. Nothing was sent."
        ) from None


def _value_of(template: jinja2.Template, context: MutableMapping[str, Any]) -> Any:
    """Return the value of a template that is one expression in an environment for native types, else its text."""
    variables = ChainMap(context, template.globals)  # a dict would look up all that the context can give
    try:
        parts = list(template.root_render_func(template.new_context(variables, shared=True)))  # type: ignore[arg-type]
        if len(parts) == 1 and not isinstance(parts[0], jinja2.Undefined):
            return parts[0]
        return "".join(str(part) for part in parts)
    except Exception:
        template.environment.handle_exception()  # the traceback names the line of the template
