"""The web page: templates, and routes that render what the API knows. No logic of its own.

Every page works without JavaScript as far as forms go; htmx, which is kept here with all other assets, makes parts of
pages fresh. Nothing is loaded from elsewhere, and `Content-Security-Policy` says so to the browser.
"""
