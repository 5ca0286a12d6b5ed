"""Rate-distortion reports: codecs run on a folder of pictures, real bytes counted, curves, tables, plots and one page.

    from looc_codec.report.run import ReportRequest, run_report

One module a job: `codecs` (one interface for every codec), `distortion` (metrics of one picture), `results` (the
stored points), `measure` (what is missing gets measured), `summary` (means, readings, BD-rates), `published`
(curves of others on Kodak), `plots`, `equal_bytes` (pictures at equal file size), `page`, `front` and `run`.
"""
