/*
 * Makes the calls of live update's interface that a script says, and prints what each answers. Nothing in it knows of
 * an emulator: it runs on a kernel as well. The language of the scripts is in ../README.md.
 *
 *   main.c     scripts, their parts and their processes
 *   step.c     one line: its words, its variables, its answer
 *   device.c   live update's own calls, also malformed ones and those of many threads
 *   files.c    everything else: memory files, descriptors, limits
 */
#ifndef DRIVER_H
#define DRIVER_H
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_WORDS 32
#define MAX_LINE 8192
#define MAX_ANSWER 4096

struct word {
	char *text;
	size_t length;
};

/* A line without its verb. Words that are not there are empty. */
struct step {
	int count;
	struct word words[MAX_WORDS];
};

struct verb {
	const char *name;
	void (*run)(struct step *step);
};

extern const struct verb device_verbs[], file_verbs[], process_verbs[];

/* What a line answers; the last one counts. */
void answer(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "ok", or the errno. */
void answer_result(long result);
/* Text in quotes, with \xNN for what is not printable ASCII. */
void answer_bytes(const char *before, const void *bytes, size_t length);
/* The answer of a line, which is changed. A line that is no step ends the program. */
const char *run_line(char *line);

/* A number, or a variable; -1 when it is not bound, so that what uses it gets EBADF. */
int fd_of(const struct word *word);
void bind_fd(const struct word *name, int fd);
/* Binds it when the call was well, and answers either. */
void bind_result(const struct word *name, int fd);
void unbind_fd(const struct word *name);
uint64_t number_of(const struct word *word);
/* The value of the word KEY=VALUE, or NULL. */
const struct word *value_of(struct step *step, const char *key);
int has_word(struct step *step, const char *text);
/* Descriptors of this program itself are up here, out of the way of those that are counted. */
#define OWN_FDS 100
int own_fd(int fd);
void fail(const char *what) __attribute__((noreturn));

#endif
