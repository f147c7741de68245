"""Documents about the kernel's views, made from the catalogs of a database that has them.

`catalog` reads, `erd`, `dbml` and `prisma` write text, `documents` says which file is whose.
Nothing here reads the addon's code: what is not in the database is not in the documents.
"""
