/* Files of every kind that luod keeps, each with a number in it that can be read without changing it. */
#ifndef SOAK_KINDS_H
#define SOAK_KINDS_H

#define NO_VALUE (-1L)

typedef struct soak_kind {
  const char *name;         /* as luod calls it */
  int (*make)(long value);  /* a descriptor, or -1 */
  long (*get)(int fd);      /* NO_VALUE when it is damaged */
  int (*set)(int fd, long); /* NULL: its number cannot be changed */
} soak_kind;

extern const soak_kind SOAK_KINDS[];
extern const int SOAK_KIND_COUNT;

#endif
