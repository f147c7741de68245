from . import dispatcher
from . import artifacts
from . import jsonrpc
