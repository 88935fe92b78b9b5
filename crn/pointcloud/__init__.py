"""From the point cloud to the damage on the map, and back onto every point.

``command`` reads the command line of pointcloud.py. ``tiles`` and ``score`` are what it does, over
the steps ``las``, ``partition``, ``surface``, ``raster`` and, after scoring, ``paint``, ``layers``,
``page``. Only ``scoring`` knows trained models; only this package imports laspy, pyproj, rasterio.

It may use datasets/, system/ and, in ``scoring`` alone, checkpoints/, evaluation/, methods/ and the
configuration.

Units: metres east and north, heights in tenths of a millimetre as whole numbers until they are
averaged. Arrays of cells have a row for each step north, so row 0 is the southernmost; pictures
are turned over where they are written.
"""
