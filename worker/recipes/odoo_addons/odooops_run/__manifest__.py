{
    "name": "OdooOps Run",
    "summary": "Loaded into the Odoo processes of a run: reports test results as data",
    "version": "19.0.1.0.0",
    "category": "Hidden",
    "license": "LGPL-3",
    "author": "OdooOps contributors",
    "website": "https://github.com/odooops/odooops",
    "depends": ["base"],
}
