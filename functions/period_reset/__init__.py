"""Free users' billing periods roll over to the calendar month; without it they would stay blocked for ever."""
