from . import ops_api_key
from . import ops_retention_line
