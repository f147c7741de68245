from . import ops_api_key
