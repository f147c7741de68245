from . import dispatcher
from . import artifacts
from . import audit
from . import jsonrpc
from . import uploads
