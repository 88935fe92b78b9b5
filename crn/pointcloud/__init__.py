"""From point clouds to damage on the map, and back onto every point.

``command`` is the command line of pointcloud.py; its commands are ``demo``, ``training_tiles`` and
``score``. ``campaign`` finds the scans and runs a task for each. A task builds on ``las``, ``crs``,
``partition``, ``surface``, ``roadway``, ``raster``, ``tiles`` and ``mosaic``; ``paint`` and
``drawing`` write its results, ``joined`` and ``results`` those of all scans. Only ``model`` knows
trained models; only this package imports laspy, pyproj, rasterio, geopandas and dask.

Units: metres east and north; heights are whole numbers of tenths of a millimetre until they are
averaged. Arrays of cells have a row for each step north, so row 0 is the southernmost; pictures
are flipped when they are written.
"""
