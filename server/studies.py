"""The records of studies on the web: the list, and each record with its chart."""

from typing import Annotated

from fastapi import Path, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from lexiscope.records import StudyList, StudyRecord, StudySummary
from lexiscope.settings import Settings
from lexiscope.study_files import NoSuchStudy, StudyFileError, read_record
from server.kept_studies import kept
from server.page_router import PageRouter
from server.responses import PageContent, respond
from server.study_charts import draw

router = PageRouter()
RecordName = Annotated[str, Path(description="the record's name: `/studies` lists them", max_length=100)]


@router.page("/studies", StudyList, api="/studies", navigation="Studies", errors=())
def studies(request: Request) -> Response:
    """The records of every study that was run, by study and model. Files that hold no record are left out."""
    settings: Settings = request.app.state.settings
    fields = StudySummary.model_fields
    found = [
        StudySummary(**{field: getattr(record, field) for field in fields})
        for record in kept(settings.studies)
    ]
    found.sort(key=lambda entry: (entry.study, entry.model, entry.name))
    return respond(request, PageContent(StudyList(studies=found), "studies.html"))


@router.page("/studies/{name}", StudyRecord, api="/studies/{name}", errors=(404, 503))
def study(request: Request, name: RecordName) -> Response:
    """One record: question, answer, figures beside their control, tables, and a chart."""
    settings: Settings = request.app.state.settings
    try:
        record = read_record(settings.studies, name)
    except NoSuchStudy as error:
        raise HTTPException(404, str(error)) from error
    except StudyFileError as error:
        raise HTTPException(503, str(error)) from error
    context = {"drawing": draw(record.chart) if record.chart else ""}
    return respond(request, PageContent(record, "study.html", context=context))
