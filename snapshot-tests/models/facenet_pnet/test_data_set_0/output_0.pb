B
Identity:0JÔ©ó>+?