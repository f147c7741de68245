from . import ops_api_key
from . import ops_artifact_check
from . import ops_registration_token
from . import ops_retention_line
