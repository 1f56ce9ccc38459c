"""An edit from request to folder: videos, a sheet and a record."""

from tav_sdk.edits.make import EditResult as EditResult
from tav_sdk.edits.make import make as make
from tav_sdk.edits.record import EditRecord as EditRecord
from tav_sdk.edits.record import read_record as read_record
