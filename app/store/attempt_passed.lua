-- Forgets the attempts by a name whose password was proved, and takes that one attempt back from its address.
-- Not to be sent again: it would take back another.
--
-- KEYS  1 counter of the name from this address  2 counter of the name  3 counter of the address, if one is known

redis.call('DEL', KEYS[1], KEYS[2])
if KEYS[3] and tonumber(redis.call('HGET', KEYS[3], 'count') or 0) > 0 then
  redis.call('HINCRBY', KEYS[3], 'count', -1)
end
return 1
