"""How good a trained reward or cost model is: accuracy by axis, baselines such as length alone, a declared zero.

Does not belong here: training (`learner.supervised.training`), and calibration (`learner.statistics.calibration`).
"""
