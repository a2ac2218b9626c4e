"""The recipes acorl, acorl_forecast and acorl_shift."""

RECIPES = {
    "acorl": "protocol.acorl",
    "acorl_forecast": "forecasts.acorl_forecast",
    "acorl_shift": "shift.acorl_shift",
}
"""Its recipes, as paths below this package: the command line finds them here."""
ANSWERS = {"acorl": "serving.answer"}
"""Functions that answer for new samples with a finished run: ``predict --run`` finds them here."""
