"""Questions, votes and rankings: which of the values of an axis makes the best pictures?"""
